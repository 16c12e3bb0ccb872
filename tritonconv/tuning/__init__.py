"""What a launcher chooses: tiles, algorithms, splits; for the device at hand or for one that is not there."""

from tritonconv.tuning.choices import is_split, number, pick, pick_algorithm, reads_channels_last, split_k, tuned, using
from tritonconv.tuning.device import architecture, current_target, dot_precision, machine, target
from tritonconv.tuning.reasons import Asked, Choice, Key, Tile, record_choices

__all__ = ["Asked", "Choice", "Key", "Tile", "architecture", "dot_precision", "is_split", "machine", "pick"]
__all__ += ["current_target", "number", "pick_algorithm", "reads_channels_last", "record_choices", "split_k", "target"]
__all__ += ["tuned", "using"]
