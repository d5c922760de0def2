"""functionalized joint forward and backward graphs and their partition."""

from .api import aot_eager, aot_function, aot_module, run_graph
from .joint import Joint, trace_joint
from .partition import default, min_cut
from .signature import GraphSignature, InputMutation, OutputAlias, OutputKind, OutputSpec, SavedSource
from .views import ViewSpec

__version__ = "0.1.0"
__all__ = [
    "GraphSignature", "InputMutation", "Joint", "OutputAlias", "OutputKind", "OutputSpec", "SavedSource", "ViewSpec", "aot_eager", "aot_function",
    "aot_module", "default", "min_cut", "partition", "run_graph", "trace_joint",
]  # fmt: skip

partition = min_cut
