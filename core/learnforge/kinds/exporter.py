"""The kind `exporter`: writes a network to a file for a runtime."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:  # files that run without torch are opened without it
    from numpy.typing import NDArray
    from torch import Tensor, nn

Runtime = Callable[["Tensor"], "Tensor"]


class Exporter(ABC):
    """A method of the kind `exporter`: writes a network to a file for a runtime, and reads it back for
    the proof.
    """

    suffix: ClassVar[str]
    """Ending of the file's name, such as `.onnx`."""

    is_exact: ClassVar[bool] = True
    """Whether the file gives the network's class scores to rounding; False for methods that quantise, whose
    files are judged by their accuracy."""

    loads_code: ClassVar[bool] = True
    """Whether `load` can run code that is in the file, which is then opened with `--trust` alone; False for
    formats that are data."""

    runner: ClassVar[str] = ""
    """Python that runs the file without learnforge, for the script beside it: defines `score`, from numpy's
    uint8 [1, channel, height, width] to class scores [class], and may use `FILE`; "" where there is none."""

    @abstractmethod
    def export(self, module: nn.Module, images: Tensor, path: Path) -> None:
        """Write the module to a file that takes batches of any size.

        Args:
            module: Takes uint8 images [batch, channel, height, width] and gives class scores; in eval mode,
                on the CPU.
            images: Images to learn from as the module takes them, at least two, such as a quantiser
                calibrates with.
            path: The file to write.
        """

    @abstractmethod
    def load(self, path: Path) -> Runtime:
        """Return what runs the file: from uint8 images [batch, channel, height, width] to class scores
        [batch, class]. It computes with as many threads as torch does (`torch.get_num_threads()`).
        """

    def load_arrays(self, path: Path) -> Callable[[NDArray[Any]], NDArray[Any]] | None:
        """Return what runs the file on numpy's arrays in place of tensors, without importing torch. Formats
        without such a runtime leave this out.
        """
        return None

    def require(self) -> None:
        """Raise an error that says what to install, where the method needs what is not there; called by
        the checks.
        """

    def annotate(self, path: Path, manual: str) -> None:
        """Keep what somebody who runs the file must know, as JSON, in the file's own metadata, if its format
        has any.
        """

    @classmethod
    def reads(cls, path: Path) -> bool:
        """Tell whether a file is of this format, by the ending of its name and by its first bytes: never by
        what the file says of itself.
        """
        return path.name.endswith(cls.suffix)

    @classmethod
    def manual(cls, path: Path) -> str | None:
        """Return what `annotate` kept in a file of this format; None where it kept nothing. It must run no
        code of the file.
        """
        return None
