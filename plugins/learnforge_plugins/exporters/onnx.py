"""ONNX: the network for any runtime that reads the open format, as it is (`onnx`) or in eight bits (`int8`).

`int8` quantises weights, a scale for each output channel, and activations, whose ranges are the smallest and
largest values seen on training images (static post-training quantisation, section 3.2). Weights use seven of
their bits: processors with AVX2 and no VNNI add products in 16 bits, which eight would overflow. Both run
with onnxruntime (extra `onnx`).

Reference:
    ONNX, Open neural network exchange. https://onnx.ai
    Krishnamoorthi, Quantizing deep convolutional networks for efficient inference: a whitepaper, 2018.
    arXiv:1806.08342
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar

from attrs import frozen

from learnforge import Exporter, Runtime, StageError, hookimpl

if TYPE_CHECKING:  # a file is run without torch
    from numpy.typing import NDArray
    from torch import Tensor, nn

_FIRST = b"\x08"
"""First byte of an ONNX file: the tag of its version, which protobuf writes first."""
_KEY = "learnforge"
"""Name of the manual among a file's metadata."""
_RUNNER = """
def score(images):
    import onnxruntime

    session = onnxruntime.InferenceSession(FILE, providers=["CPUExecutionProvider"])
    return session.run(None, {"images": images})[0][0]
"""


class _OnnxFile(Exporter):
    """What ONNX files have in common."""

    runner: ClassVar[str] = _RUNNER
    loads_code: ClassVar[bool] = False

    def require(self) -> None:
        try:
            import onnx  # noqa: F401
            import onnxruntime  # noqa: F401
            import onnxscript  # noqa: F401
        except ImportError as error:
            raise _missing(error) from error

    def load(self, path: Path) -> Runtime:
        import torch

        run = self.load_arrays(path)
        return lambda images: torch.from_numpy(run(images.numpy()))

    def load_arrays(self, path: Path) -> Callable[[NDArray[Any]], NDArray[Any]]:
        try:
            import onnxruntime
        except ImportError as error:
            raise _missing(error) from error

        file = str(path.resolve())  # the working folder may be another by then
        sessions: dict[int, Any] = {}  # by number of threads, which a session cannot change

        def run(images: NDArray[Any]) -> NDArray[Any]:
            threads = _threads()
            if threads not in sessions:
                options = onnxruntime.SessionOptions()
                options.intra_op_num_threads = threads
                options.log_severity_level = 3
                sessions[threads] = onnxruntime.InferenceSession(
                    file, options, providers=["CPUExecutionProvider"]
                )
            scores: NDArray[Any] = sessions[threads].run(None, {"images": images})[0]
            return scores

        return run

    def annotate(self, path: Path, manual: str) -> None:
        import onnx

        model = onnx.load(path)
        onnx.helper.set_model_props(model, {_KEY: manual})
        onnx.save(model, path)

    @classmethod
    def reads(cls, path: Path) -> bool:
        with path.open("rb") as stream:
            return path.suffix == ".onnx" and stream.read(1) == _FIRST

    @classmethod
    def manual(cls, path: Path) -> str | None:
        with path.open("rb") as stream, contextlib.suppress(ValueError):  # what is damaged says nothing
            kept = dict(map(_read_entry, _read_fields(stream, path.stat().st_size, _METADATA)))
            return kept.get(_KEY)
        return None


_METADATA = 14
"""Number of the field of a model's metadata, `ModelProto.metadata_props` in onnx.proto."""


def _read_entry(data: bytes) -> tuple[str, str]:
    """Read a name and its value out of a message `StringStringEntryProto`."""
    key, value = (b"".join(_read_fields(io.BytesIO(data), len(data), number)) for number in (1, 2))
    return key.decode("utf-8"), value.decode("utf-8")


def _read_fields(stream: BinaryIO, size: int, number: int) -> Iterator[bytes]:
    """Yield the bytes of a message's fields of one number, and pass over the others: a model may have
    gigabytes, which the package onnx would read.

    Raises:
        ValueError: It is no message of protobuf's.
    """
    while stream.tell() < size:
        tag = _read_varint(stream)
        if tag & 7 == 0:
            _read_varint(stream)
            continue
        if tag & 7 not in _FIXED and tag & 7 != 2:
            raise ValueError(f"a field of the unknown kind {tag & 7}")
        length = _FIXED.get(tag & 7) or _read_varint(stream)
        if stream.tell() + length > size:
            raise ValueError("a field is cut off")
        if tag == number << 3 | 2:
            yield stream.read(length)
        else:
            stream.seek(length, io.SEEK_CUR)


_FIXED = {1: 8, 5: 4}
"""{kind of a field: its bytes} of those of one size. 0 is a number of any size, 2 tells its length."""


def _read_varint(stream: BinaryIO) -> int:
    """Read a number in groups of seven bits, the lowest first, of which all but the last have a mark."""
    value = shift = 0
    while shift < 64:
        byte = stream.read(1)
        if not byte:
            break
        value |= (byte[0] & 127) << shift
        if byte[0] < 128:
            return value
        shift += 7
    raise ValueError("a number is cut off")


@frozen
class Onnx(_OnnxFile):
    """ONNX by torch's own exporter, for batches of any size. It has no options."""

    suffix: ClassVar[str] = ".onnx"

    def export(self, module: nn.Module, images: Tensor, path: Path) -> None:
        _write(module, images, path)


@frozen
class Int8(_OnnxFile):
    """ONNX with activations of eight bits and weights of seven. It has no options."""

    suffix: ClassVar[str] = ".int8.onnx"
    is_exact: ClassVar[bool] = False

    def export(self, module: nn.Module, images: Tensor, path: Path) -> None:
        from onnxruntime import quantization

        with tempfile.TemporaryDirectory() as folder, _quiet():
            whole, folded = (Path(folder) / name for name in ("whole.onnx", "folded.onnx"))
            _write(module, images, whole)
            quantization.quant_pre_process(str(whole), str(folded), skip_symbolic_shape=True)
            quantization.quantize_static(
                str(folded),
                str(path),
                _reader(images),
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=[
                    "Conv",
                    "Gemm",
                    "MatMul",
                    "Add",
                    "GlobalAveragePool",
                    "MaxPool",
                    "Relu",
                ],
                per_channel=True,
                reduce_range=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
            )


def _missing(error: ImportError) -> StageError:
    return StageError(f"ONNX needs {error.name}: pip install 'learnforge[onnx]'")


def _threads() -> int:
    """Return torch's number of threads, or the number that it would take from OpenMP's variable; 0, which
    leaves it to the runtime, where there is none.
    """
    if "torch" in sys.modules:
        return int(sys.modules["torch"].get_num_threads())
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    return int(wanted) if wanted.isdecimal() else 0


def _write(module: nn.Module, images: Tensor, path: Path) -> None:
    import torch

    batch = torch.export.Dim("batch", min=1)
    with torch.no_grad(), _quiet():
        program = torch.onnx.export(
            module,
            (images[:2],),
            dynamo=True,
            verbose=False,
            input_names=["images"],
            output_names=["scores"],
            dynamic_shapes=({0: batch},),
        )
        assert program is not None
        program.save(path, external_data=False)


def _reader(images: Tensor) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """Hands out the images in batches."""

        def __init__(self) -> None:
            self._batches = iter(images.split(32))

        def get_next(self) -> Any:
            batch = next(self._batches, None)
            return None if batch is None else {"images": batch.numpy()}

    return Reader()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what the libraries print, log and warn of to themselves: nothing that a caller could change."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        before = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(before)


@hookimpl
def learnforge_exporters() -> dict[str, type[Exporter]]:
    return {"onnx": Onnx, "int8": Int8}
