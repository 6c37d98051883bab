"""The fields of a network file: what the text format may hold, of which type, and with which default.

Written from the definition of Caffe 1.0's messages (BVLC/caffe, ``src/caffe/proto/caffe.proto``). A message that has no
meaning for inference (fillers of weights, databases, solvers' settings) is ``any``: read, and not looked at.
"""

from __future__ import annotations

from typing import NamedTuple

Scalar = int | float | bool | str


class Field(NamedTuple):
    """One field: its kind (a scalar type, ``any``, or the name of an enumeration or message) and its default."""

    kind: str
    repeated: bool
    default: Scalar | None


#: Enumerations, by the names that the field table uses.
ENUMERATIONS: dict[str, dict[str, int]] = {
    "Phase": {"TRAIN": 0, "TEST": 1},
    "Share": {"STRICT": 0, "PERMISSIVE": 1},
    "Engine": {"DEFAULT": 0, "CAFFE": 1, "CUDNN": 2},
    "Pool": {"MAX": 0, "AVE": 1, "STOCHASTIC": 2},
    "Round": {"CEIL": 0, "FLOOR": 1},
    "Operation": {"PROD": 0, "SUM": 1, "MAX": 2},
    "Region": {"ACROSS_CHANNELS": 0, "WITHIN_CHANNEL": 1},
    "Reduction": {"SUM": 1, "ASUM": 2, "SUMSQ": 3, "MEAN": 4},
}

#: Layer types of the format before ``layer``: number -> (name in the file, name since).
V1_TYPES: dict[int, tuple[str, str]] = {
    0: ("NONE", ""),
    1: ("ACCURACY", "Accuracy"),
    2: ("BNLL", "BNLL"),
    3: ("CONCAT", "Concat"),
    4: ("CONVOLUTION", "Convolution"),
    5: ("DATA", "Data"),
    6: ("DROPOUT", "Dropout"),
    7: ("EUCLIDEAN_LOSS", "EuclideanLoss"),
    8: ("FLATTEN", "Flatten"),
    9: ("HDF5_DATA", "HDF5Data"),
    10: ("HDF5_OUTPUT", "HDF5Output"),
    11: ("IM2COL", "Im2col"),
    12: ("IMAGE_DATA", "ImageData"),
    13: ("INFOGAIN_LOSS", "InfogainLoss"),
    14: ("INNER_PRODUCT", "InnerProduct"),
    15: ("LRN", "LRN"),
    16: ("MULTINOMIAL_LOGISTIC_LOSS", "MultinomialLogisticLoss"),
    17: ("POOLING", "Pooling"),
    18: ("RELU", "ReLU"),
    19: ("SIGMOID", "Sigmoid"),
    20: ("SOFTMAX", "Softmax"),
    21: ("SOFTMAX_LOSS", "SoftmaxWithLoss"),
    22: ("SPLIT", "Split"),
    23: ("TANH", "TanH"),
    24: ("WINDOW_DATA", "WindowData"),
    25: ("ELTWISE", "Eltwise"),
    26: ("POWER", "Power"),
    27: ("SIGMOID_CROSS_ENTROPY_LOSS", "SigmoidCrossEntropyLoss"),
    28: ("HINGE_LOSS", "HingeLoss"),
    29: ("MEMORY_DATA", "MemoryData"),
    30: ("ARGMAX", "ArgMax"),
    31: ("THRESHOLD", "Threshold"),
    32: ("DUMMY_DATA", "DummyData"),
    33: ("SLICE", "Slice"),
    34: ("MVN", "MVN"),
    35: ("ABSVAL", "AbsVal"),
    36: ("SILENCE", "Silence"),
    37: ("CONTRASTIVE_LOSS", "ContrastiveLoss"),
    38: ("EXP", "Exp"),
    39: ("DECONVOLUTION", "Deconvolution"),
}
ENUMERATIONS["V1Type"] = {name: number for number, (name, _) in V1_TYPES.items()}

#: Parameters common to both formats of a layer, then those that only the newer one has.
_PARAMETERS = """
    transform_param:Transformation loss_param:any accuracy_param:any argmax_param:ArgMax concat_param:Concat
    contrastive_loss_param:any convolution_param:Convolution data_param:Data dropout_param:any
    dummy_data_param:DummyData eltwise_param:Eltwise exp_param:Curve hdf5_data_param:Data hdf5_output_param:any
    hinge_loss_param:any image_data_param:Data infogain_loss_param:InfogainLoss inner_product_param:InnerProduct
    lrn_param:LRN memory_data_param:MemoryData mvn_param:MVN pooling_param:Pooling power_param:Power relu_param:ReLU
    sigmoid_param:any softmax_param:Softmax slice_param:Slice tanh_param:any threshold_param:Threshold
    window_data_param:Data
"""
_NEWER_PARAMETERS = """
    batch_norm_param:BatchNorm bias_param:Bias clip_param:Clip crop_param:Crop elu_param:ELU embed_param:Embed
    flatten_param:Flatten input_param:Input log_param:Curve parameter_param:Parameter prelu_param:PReLU
    python_param:Python recurrent_param:Recurrent reduction_param:Reduce reshape_param:Reshape scale_param:Scale
    spp_param:SPP swish_param:Swish tile_param:Tile permute_param:Permute
"""
#: ``name:kind``, with ``*`` for a repeated field and ``=default`` where the definition has one.
_MESSAGES = {
    "Net": """name:string input:string* input_shape:Shape* input_dim:int* force_backward:bool state:State
        debug_info:bool layer:Layer* layers:V1Layer*""",
    "State": "phase:Phase=1 level:int=0 stage:string*",
    "Rule": "phase:Phase min_level:int max_level:int stage:string* not_stage:string*",
    "Shape": "dim:int*",
    "Param": "name:string share_mode:Share=0 lr_mult:float decay_mult:float",
    "Layer": """name:string type:string bottom:string* top:string* phase:Phase loss_weight:float* param:Param*
        blobs:any* propagate_down:bool* include:Rule* exclude:Rule*"""
    + _PARAMETERS
    + _NEWER_PARAMETERS,
    "V1Layer": """bottom:string* top:string* name:string include:Rule* exclude:Rule* type:V1Type blobs:any*
        param:string* blob_share_mode:Share* blobs_lr:float* weight_decay:float* loss_weight:float* layer:V0Layer"""
    + _PARAMETERS,
    "V0Layer": """name:string type:string num_output:uint biasterm:bool weight_filler:any bias_filler:any pad:uint
        kernelsize:uint group:uint stride:uint pool:Pool dropout_ratio:float local_size:uint alpha:float beta:float
        k:float source:string scale:float meanfile:string batchsize:uint cropsize:uint mirror:bool blobs:any*
        blobs_lr:float* weight_decay:float* rand_skip:uint det_fg_threshold:float det_bg_threshold:float
        det_fg_fraction:float det_context_pad:uint det_crop_mode:string new_num:int new_channels:int new_height:int
        new_width:int shuffle_images:bool concat_dim:uint hdf5_output_param:any""",
    "Transformation": """scale:float=1 mirror:bool crop_size:uint=0 mean_file:string mean_value:float* force_color:bool
        force_gray:bool""",
    "ArgMax": "out_max_val:bool=false top_k:uint=1 axis:int",
    "BatchNorm": "use_global_stats:bool moving_average_fraction:float eps:float=1e-5",
    "Bias": "axis:int=1 num_axes:int=1 filler:any",
    "Clip": "min:float max:float",
    "Concat": "axis:int=1 concat_dim:uint",
    "Convolution": """num_output:uint=0 bias_term:bool=true pad:uint* kernel_size:uint* stride:uint* dilation:uint*
        pad_h:uint=0 pad_w:uint=0 kernel_h:uint=0 kernel_w:uint=0 stride_h:uint=0 stride_w:uint=0 group:uint=1
        weight_filler:any bias_filler:any engine:Engine axis:int=1 force_nd_im2col:bool""",
    "Crop": "axis:int=2 offset:uint*",
    "Curve": "base:float=-1 scale:float=1 shift:float=0",
    "Data": """source:string batch_size:uint=1 rand_skip:uint backend:any scale:float mean_file:string crop_size:uint=0
        mirror:bool force_encoded_color:bool prefetch:uint shuffle:bool new_height:uint=0 new_width:uint=0
        is_color:bool=true root_folder:string fg_threshold:float bg_threshold:float fg_fraction:float
        context_pad:uint crop_mode:string cache_images:bool""",
    "DummyData": "data_filler:Filler* shape:Shape* num:uint* channels:uint* height:uint* width:uint*",
    "Filler": """type:string=constant value:float=0 min:float max:float mean:float std:float sparse:int
        variance_norm:any""",
    "Eltwise": "operation:Operation=1 coeff:float* stable_prod_grad:bool",
    "ELU": "alpha:float=1",
    "Embed": "num_output:uint=0 input_dim:uint=0 bias_term:bool=true weight_filler:any bias_filler:any",
    "Flatten": "axis:int=1 end_axis:int=-1",
    "InfogainLoss": "source:string axis:int=1",
    "InnerProduct": """num_output:uint=0 bias_term:bool=true weight_filler:any bias_filler:any axis:int=1
        transpose:bool=false""",
    "Input": "shape:Shape*",
    "LRN": "local_size:uint=5 alpha:float=1 beta:float=0.75 norm_region:Region=0 k:float=1 engine:Engine",
    "MemoryData": "batch_size:uint=0 channels:uint=0 height:uint=0 width:uint=0",
    "MVN": "normalize_variance:bool=true across_channels:bool=false eps:float=1e-9",
    "Parameter": "shape:Shape",
    "Permute": "order:uint*",
    "Pooling": """pool:Pool=0 pad:uint=0 pad_h:uint=0 pad_w:uint=0 kernel_size:uint=0 kernel_h:uint=0 kernel_w:uint=0
        stride:uint=1 stride_h:uint=0 stride_w:uint=0 engine:Engine global_pooling:bool=false round_mode:Round=0""",
    "Power": "power:float=1 scale:float=1 shift:float=0",
    "PReLU": "filler:any channel_shared:bool=false",
    "Python": "module:string= layer:string= param_str:string share_in_parallel:bool",
    "Recurrent": "num_output:uint=0 weight_filler:any bias_filler:any debug_info:bool expose_hidden:bool=false",
    "Reduce": "operation:Reduction=1 axis:int=0 coeff:float=1",
    "ReLU": "negative_slope:float=0 engine:Engine",
    "Reshape": "shape:Shape axis:int=0 num_axes:int=-1",
    "Scale": "axis:int=1 num_axes:int=1 filler:any bias_term:bool=false bias_filler:any",
    "Slice": "axis:int=1 slice_point:uint* slice_dim:uint",
    "Softmax": "engine:Engine axis:int=1",
    "SPP": "pyramid_height:uint=0 pool:Pool=0 engine:Engine",
    "Swish": "beta:float=1",
    "Threshold": "threshold:float=0",
    "Tile": "axis:int=1 tiles:int=0",
}


def _default(kind: str, text: str) -> Scalar:
    if kind == "bool":
        return text == "true"
    if kind == "string":
        return text
    return float(text) if kind == "float" else int(text)


def _field(text: str) -> tuple[str, Field]:
    name, _, rest = text.partition(":")
    kind, given, default = rest.partition("=")
    repeated = kind.endswith("*")
    kind = kind.rstrip("*")
    return name, Field(kind, repeated, _default(kind, default) if given else None)


#: message -> field name -> field
MESSAGES: dict[str, dict[str, Field]] = {
    message: dict(_field(text) for text in fields.split()) for message, fields in _MESSAGES.items()
}
