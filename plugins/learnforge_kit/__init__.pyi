"""The public names, each imported from its home when it is first used."""

from .costs.layers import (
    each_layer as each_layer,
)
from .costs.layers import (
    layer_signatures as layer_signatures,
)
from .costs.layers import (
    time_layers as time_layers,
)
from .costs.measuring import (
    measure_cost as measure_cost,
)
from .costs.measuring import (
    measure_latency as measure_latency,
)
from .data.environments import (
    Estimation as Estimation,
)
from .data.environments import (
    Experience as Experience,
)
from .data.environments import (
    RolloutEpisodes as RolloutEpisodes,
)
from .data.environments import (
    Trajectories as Trajectories,
)
from .data.environments import (
    World as World,
)
from .data.episodes import (
    ImageEpisodes as ImageEpisodes,
)
from .data.episodes import (
    ImageEpisodeSource as ImageEpisodeSource,
)
from .data.images import (
    class_folders as class_folders,
)
from .data.images import (
    decode_image as decode_image,
)
from .data.images import (
    find_images as find_images,
)
from .data.images import (
    images_inside as images_inside,
)
from .data.images import (
    open_dataset as open_dataset,
)
from .data.images import (
    resize_images as resize_images,
)
from .data.splits import (
    MemorySplit as MemorySplit,
)
from .data.splits import (
    StreamSplit as StreamSplit,
)
from .data.splits import (
    measure_channels as measure_channels,
)
from .data.splits import (
    stratified as stratified,
)
from .engines.adaptation import (
    LearnerOptions as LearnerOptions,
)
from .engines.adaptation import (
    adapt_artifact as adapt_artifact,
)
from .engines.adaptation import (
    adapt_policy as adapt_policy,
)
from .engines.adaptation import (
    prepare_network as prepare_network,
)
from .engines.chain import (
    ChainEngine as ChainEngine,
)
from .engines.choice import (
    ENGINES as ENGINES,
)
from .engines.engine import (
    NetworkEngine as NetworkEngine,
)
from .engines.head_learner import (
    HeadLearner as HeadLearner,
)
from .engines.loop import (
    LoopEngine as LoopEngine,
)
from .engines.vmap import (
    VmapEngine as VmapEngine,
)
from .networks.blocks import (
    find_blocks as find_blocks,
)
from .networks.connectors import (
    Connector as Connector,
)
from .networks.connectors import (
    Pairs as Pairs,
)
from .networks.connectors import (
    match_extent as match_extent,
)
from .networks.connectors import (
    pair_stages as pair_stages,
)
from .networks.features import (
    cut_at as cut_at,
)
from .networks.features import (
    extract_features as extract_features,
)
from .networks.heads import (
    count_parameters as count_parameters,
)
from .networks.heads import (
    describe_changes as describe_changes,
)
from .networks.heads import (
    find_head as find_head,
)
from .networks.heads import (
    find_stem as find_stem,
)
from .networks.heads import (
    replace_head as replace_head,
)
from .networks.heads import (
    replace_stem as replace_stem,
)
from .networks.layers import (
    read_layers as read_layers,
)
from .networks.normalisation import (
    find_normalisations as find_normalisations,
)
from .networks.normalisation import (
    measure_statistics as measure_statistics,
)
from .networks.taps import (
    Tapped as Tapped,
)
from .prediction import (
    Predictor as Predictor,
)
from .prediction import (
    open_predictor as open_predictor,
)
from .prediction import (
    predict_files as predict_files,
)
from .search.encoding import (
    encode as encode,
)
from .search.encoding import (
    flatten as flatten,
)
from .search.pareto import (
    best_first as best_first,
)
from .search.pareto import (
    non_dominated_rank as non_dominated_rank,
)
from .search.sampler import (
    FreshSampler as FreshSampler,
)
from .search.sampler import (
    HistorySampler as HistorySampler,
)
from .search.sampler import (
    IndependentSampler as IndependentSampler,
)
from .search.sampler import (
    draw as draw,
)
from .search.sampler import (
    generator as generator,
)
from .search.sampler import (
    split_history as split_history,
)
from .search.view import (
    HistoryView as HistoryView,
)
from .search.view import (
    SpaceView as SpaceView,
)
from .search.view import (
    mutate as mutate,
)
from .search.view import (
    neighbours as neighbours,
)
from .training.augmentation import (
    Augmentation as Augmentation,
)
from .training.domain import (
    DomainAdaptation as DomainAdaptation,
)
from .training.domain import (
    adversarial_strength as adversarial_strength,
)
from .training.domain import (
    reverse_gradient as reverse_gradient,
)
from .training.evaluation import (
    Scores as Scores,
)
from .training.evaluation import (
    evaluate as evaluate,
)
from .training.evaluation import (
    predict as predict,
)
from .training.evaluation import (
    score as score,
)
from .training.loop import (
    Companion as Companion,
)
from .training.loop import (
    Trainee as Trainee,
)
from .training.loop import (
    fit as fit,
)
from .training.loop import (
    train_on_labels as train_on_labels,
)
from .training.losses import (
    cross_entropy as cross_entropy,
)
from .training.losses import (
    label_loss as label_loss,
)
from .training.measures import (
    judge as judge,
)
from .training.measures import (
    measure_costs as measure_costs,
)
from .training.settings import (
    Train as Train,
)
from .workers import (
    Workers as Workers,
)
from .workers import (
    end_with_parent as end_with_parent,
)
