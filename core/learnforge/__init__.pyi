"""The public names, each imported from its home when it is first used."""

from .api import (
    adapt as adapt,
)
from .api import (
    distill as distill,
)
from .api import (
    export as export,
)
from .api import (
    load as load,
)
from .api import (
    load_method as load_method,
)
from .api import (
    load_task as load_task,
)
from .api import (
    meta_train as meta_train,
)
from .api import (
    run as run,
)
from .api import (
    run_stage as run_stage,
)
from .api import (
    search as search,
)
from .api import (
    transfer as transfer,
)
from .artifact import (
    Artifact as Artifact,
)
from .artifact import (
    from_model as from_model,
)
from .artifact import (
    from_module as from_module,
)
from .artifact import (
    load_artifact as load_artifact,
)
from .context import (
    Checkpoint as Checkpoint,
)
from .context import (
    Context as Context,
)
from .context import (
    Progress as Progress,
)
from .context import (
    Silence as Silence,
)
from .context import (
    choose_device as choose_device,
)
from .cut import (
    Cut as Cut,
)
from .cut import (
    cut_network as cut_network,
)
from .cut import (
    pool as pool,
)
from .errors import (
    ArtifactError as ArtifactError,
)
from .errors import (
    DivergedError as DivergedError,
)
from .errors import (
    ExportMismatchError as ExportMismatchError,
)
from .errors import (
    GapWarning as GapWarning,
)
from .errors import (
    LearnforgeError as LearnforgeError,
)
from .errors import (
    LearnforgeWarning as LearnforgeWarning,
)
from .errors import (
    PlaceError as PlaceError,
)
from .errors import (
    PluginError as PluginError,
)
from .errors import (
    PluginWarning as PluginWarning,
)
from .errors import (
    Problem as Problem,
)
from .errors import (
    RecipeError as RecipeError,
)
from .errors import (
    RunError as RunError,
)
from .errors import (
    StageError as StageError,
)
from .errors import (
    TaskError as TaskError,
)
from .errors import (
    nearest as nearest,
)
from .files import (
    fingerprint as fingerprint,
)
from .files import (
    hash_file as hash_file,
)
from .files import (
    write_atomically as write_atomically,
)
from .files import (
    write_json as write_json,
)
from .files import (
    write_text as write_text,
)
from .hookspecs import (
    hookimpl as hookimpl,
)
from .hookspecs import (
    hookspec as hookspec,
)
from .kinds.cost import (
    COSTS as COSTS,
)
from .kinds.cost import (
    Cost as Cost,
)
from .kinds.cost import (
    CostMeter as CostMeter,
)
from .kinds.distiller import (
    Distiller as Distiller,
)
from .kinds.engine import (
    Engine as Engine,
)
from .kinds.engine import (
    FastWeights as FastWeights,
)
from .kinds.engine import (
    Judgement as Judgement,
)
from .kinds.engine import (
    Parameters as Parameters,
)
from .kinds.engine import (
    Rules as Rules,
)
from .kinds.engine import (
    Step as Step,
)
from .kinds.episodes import (
    Episodes as Episodes,
)
from .kinds.episodes import (
    EpisodeShape as EpisodeShape,
)
from .kinds.episodes import (
    EpisodeSource as EpisodeSource,
)
from .kinds.episodes import (
    Labelled as Labelled,
)
from .kinds.executor import (
    Executor as Executor,
)
from .kinds.executor import (
    Slot as Slot,
)
from .kinds.exporter import (
    Exporter as Exporter,
)
from .kinds.exporter import (
    Runtime as Runtime,
)
from .kinds.meta_learner import (
    MetaGradient as MetaGradient,
)
from .kinds.meta_learner import (
    MetaLearner as MetaLearner,
)
from .kinds.model import (
    Model as Model,
)
from .kinds.network import (
    Layers as Layers,
)
from .kinds.network import (
    Outputs as Outputs,
)
from .kinds.score import (
    Score as Score,
)
from .kinds.searcher import (
    Candidate as Candidate,
)
from .kinds.searcher import (
    Searcher as Searcher,
)
from .kinds.searcher import (
    View as View,
)
from .kinds.space import (
    Choice as Choice,
)
from .kinds.space import (
    Design as Design,
)
from .kinds.space import (
    Pick as Pick,
)
from .kinds.space import (
    Space as Space,
)
from .kinds.space import (
    design_key as design_key,
)
from .kinds.stage import (
    Reference as Reference,
)
from .kinds.stage import (
    Stage as Stage,
)
from .kinds.table import (
    Published as Published,
)
from .kinds.table import (
    Table as Table,
)
from .kinds.table import (
    Trained as Trained,
)
from .kinds.task import (
    Batch as Batch,
)
from .kinds.task import (
    GivenTask as GivenTask,
)
from .kinds.task import (
    Split as Split,
)
from .kinds.task import (
    Task as Task,
)
from .kinds.task import (
    TaskSource as TaskSource,
)
from .kinds.transfer import (
    DirectTransfer as DirectTransfer,
)
from .kinds.transfer import (
    Phase as Phase,
)
from .kinds.transfer import (
    PhasedTransfer as PhasedTransfer,
)
from .kinds.transfer import (
    Transfer as Transfer,
)
from .kinds.transfer import (
    TransferCriterion as TransferCriterion,
)
from .kinds.tuner import (
    OpenStage as OpenStage,
)
from .kinds.tuner import (
    Tuner as Tuner,
)
from .kinds.tuner import (
    load_tuner as load_tuner,
)
from .kinds.validator import (
    Evidence as Evidence,
)
from .kinds.validator import (
    Validator as Validator,
)
from .options.ranges import (
    Tune as Tune,
)
from .options.structure import (
    plugin_field as plugin_field,
)
from .options.structure import (
    structure as structure,
)
from .options.tables import (
    read_table as read_table,
)
from .plugins.choice import (
    PluginChoice as PluginChoice,
)
from .plugins.identity import (
    identify as identify,
)
from .plugins.identity import (
    spell as spell,
)
from .plugins.registry import (
    Plugins as Plugins,
)
from .randomness import (
    derive as derive,
)
from .randomness import (
    hashed as hashed,
)
from .randomness import (
    normal as normal,
)
from .randomness import (
    permutation as permutation,
)
from .randomness import (
    preserved as preserved,
)
from .randomness import (
    seeded as seeded,
)
from .randomness import (
    uniform as uniform,
)
from .record import (
    Run as Run,
)
from .report import (
    Picture as Picture,
)
from .report import (
    RunSummary as RunSummary,
)
from .report import (
    Section as Section,
)
from .report import (
    StageSummary as StageSummary,
)
from .runlog import (
    cut_torn_line as cut_torn_line,
)
from .runlog import (
    scalars as scalars,
)
from .spec import (
    Form as Form,
)
from .spec import (
    NetworkSpec as NetworkSpec,
)
from .spec import (
    Normaliser as Normaliser,
)
from .spec import (
    Provenance as Provenance,
)
from .spec import (
    TaskInfo as TaskInfo,
)
from .spec import (
    copy_weights as copy_weights,
)
from .spec import (
    find_mismatches as find_mismatches,
)
from .spec import (
    join_faults as join_faults,
)
from .spec import (
    load_weights as load_weights,
)
from .spec import (
    trained_on as trained_on,
)
