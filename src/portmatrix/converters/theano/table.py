"""The operator table: every Theano operation that is translated, by the name of its class."""

from __future__ import annotations

from portmatrix.converters.errors import Unsupported
from portmatrix.converters.theano.convolution import CONVOLUTIONS
from portmatrix.converters.theano.graph import Apply
from portmatrix.converters.theano.indexing import INDEXING
from portmatrix.converters.theano.linear import LINEAR
from portmatrix.converters.theano.loops import LOOPS
from portmatrix.converters.theano.normalization import NORMALIZATIONS
from portmatrix.converters.theano.patterns import ELEMENTWISE
from portmatrix.converters.theano.reductions import REDUCTIONS
from portmatrix.converters.theano.scalars import SCALARS, bare
from portmatrix.converters.theano.shapes import SHAPES
from portmatrix.converters.theano.translator import Handler, Translator, Value

#: Operations that are refused, and what to do instead.
REFUSED: dict[str, str] = {
    "AbstractBatchNormTrain": "it takes the statistics of the batch; build the inference graph "
    "(batch_normalization_test)",
    "AdvancedBooleanSubtensor": "a mask makes a shape that depends on the data; multiply by the mask instead",
    "AdvancedBooleanIncSubtensor": "a mask makes a shape that depends on the data; use switch instead",
    "FromFunctionOp": "it is a Python function (as_op), which is not run; write it with Theano's own operations",
    "GPUA_mrg_uniform": "random numbers; build the inference graph (dropout off, deterministic=True)",
    "RandomFunction": "random numbers; build the inference graph (dropout off, deterministic=True)",
    "mrg_uniform": "random numbers; build the inference graph (dropout off, deterministic=True)",
}


def _refuse(_t: Translator, apply: Apply) -> Value:
    raise Unsupported(apply.label, apply.op.kind, REFUSED[apply.op.kind])


TABLE: dict[str, Handler] = {
    **dict.fromkeys([*SCALARS, "Composite"], bare),
    **dict.fromkeys(REFUSED, _refuse),
    **CONVOLUTIONS,
    **ELEMENTWISE,
    **INDEXING,
    **LINEAR,
    **LOOPS,
    **NORMALIZATIONS,
    **REDUCTIONS,
    **SHAPES,
}
