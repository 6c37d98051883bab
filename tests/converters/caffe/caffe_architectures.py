"""Well-known networks, written from their papers, at any width: with ``width`` 1 as published, smaller for tests."""

from __future__ import annotations

from caffe_cases import inputs, layer, net


class Builder:
    """Collects layers; ``at`` is the blob that the next one reads."""

    def __init__(self, name, shape, width):
        self.name = name
        self.width = width
        self.parts = [inputs(data=shape)]
        self.at = "data"

    def wide(self, channels):
        return max(2, int(channels * self.width) // 2 * 2)

    def add(self, kind, name, bottoms=None, tops=None, **params):
        self.parts.append(layer(kind, name, bottoms or self.at, tops, **params))
        self.at = (tops or name).split()[0]
        return self.at

    def inside(self, kind, name, **params):
        return self.add(kind, name, self.at, self.at, **params)

    def conv(self, name, channels, kernel, more="", relu=True, bottom=None, exact=False):
        made = channels if exact else self.wide(channels)
        self.add("Convolution", name, bottom, convolution_param=f"num_output: {made} kernel_size: {kernel} {more}")
        if relu:
            self.inside("ReLU", f"relu_{name}")
        return self.at

    def pool(self, name, text):
        return self.add("Pooling", name, pooling_param=text)

    def dense(self, name, outputs, relu=True, exact=False):
        made = outputs if exact else self.wide(outputs)
        self.add("InnerProduct", name, inner_product_param=f"num_output: {made}")
        if relu:
            self.inside("ReLU", f"relu_{name}")
            self.inside("Dropout", f"drop_{name}")

    def norm(self, name, relu=True):
        self.inside("BatchNorm", f"bn_{name}", batch_norm_param="use_global_stats: true")
        self.inside("Scale", f"scale_{name}", scale_param="bias_term: true")
        if relu:
            self.inside("ReLU", f"relu_{name}")

    def text(self, output="Softmax"):
        if output:
            self.add(output, "prob")
        return net(self.name, *self.parts)


def alexnet(width=1, size=227, classes=1000, norm_first=True, name="AlexNet"):
    """AlexNet; with the pooling before the normalization it is CaffeNet."""
    b = Builder(name, (10, 3, size, size), width)
    lrn = {"lrn_param": "local_size: 5 alpha: 0.0001 beta: 0.75"}
    for index, more in ((1, "stride: 4"), (2, "pad: 2 group: 2")):
        b.conv(f"conv{index}", (96, 256)[index - 1], (11, 5)[index - 1], more)
        steps = [
            lambda i=index: b.add("LRN", f"norm{i}", **lrn),
            lambda i=index: b.pool(f"pool{i}", "kernel_size: 3 stride: 2"),
        ]
        for step in steps if norm_first else reversed(steps):
            step()
    b.conv("conv3", 384, 3, "pad: 1")
    b.conv("conv4", 384, 3, "pad: 1 group: 2")
    b.conv("conv5", 256, 3, "pad: 1 group: 2")
    b.pool("pool5", "pool: MAX kernel_size: 3 stride: 2")
    b.dense("fc6", 4096)
    b.dense("fc7", 4096)
    b.dense("fc8", classes, relu=False, exact=True)
    return b.text()


def caffenet(width=1, size=227, classes=1000):
    return alexnet(width, size, classes, norm_first=False, name="CaffeNet")


def vgg(depth=16, width=1, size=224, classes=1000):
    b = Builder(f"VGG_{depth}", (10, 3, size, size), width)
    last = 3 if depth == 16 else 4
    for block, (channels, count) in enumerate(zip((64, 128, 256, 512, 512), (2, 2, last, last, last), strict=True), 1):
        for index in range(1, count + 1):
            b.conv(f"conv{block}_{index}", channels, 3, "pad: 1")
        b.pool(f"pool{block}", "kernel_size: 2 stride: 2")
    b.dense("fc6", 4096)
    b.dense("fc7", 4096)
    b.dense("fc8", classes, relu=False, exact=True)
    return b.text()


def _inception(b, name, ones, reduce3, threes, reduce5, fives, pooled):
    start = b.at
    ends = [b.conv(f"{name}/1x1", ones, 1)]
    b.conv(f"{name}/3x3_reduce", reduce3, 1, bottom=start)
    ends.append(b.conv(f"{name}/3x3", threes, 3, "pad: 1"))
    b.conv(f"{name}/5x5_reduce", reduce5, 1, bottom=start)
    ends.append(b.conv(f"{name}/5x5", fives, 5, "pad: 2"))
    b.add("Pooling", f"{name}/pool", start, pooling_param="kernel_size: 3 stride: 1 pad: 1")
    ends.append(b.conv(f"{name}/pool_proj", pooled, 1))
    b.add("Concat", f"{name}/output", " ".join(ends))


def googlenet(width=1, size=224, classes=1000):
    b = Builder("GoogLeNet", (10, 3, size, size), width)
    lrn = {"lrn_param": "local_size: 5 alpha: 0.0001 beta: 0.75"}
    b.conv("conv1/7x7_s2", 64, 7, "pad: 3 stride: 2")
    b.pool("pool1/3x3_s2", "kernel_size: 3 stride: 2")
    b.add("LRN", "pool1/norm1", **lrn)
    b.conv("conv2/3x3_reduce", 64, 1)
    b.conv("conv2/3x3", 192, 3, "pad: 1")
    b.add("LRN", "conv2/norm2", **lrn)
    b.pool("pool2/3x3_s2", "kernel_size: 3 stride: 2")
    _inception(b, "inception_3a", 64, 96, 128, 16, 32, 32)
    _inception(b, "inception_3b", 128, 128, 192, 32, 96, 64)
    b.pool("pool3/3x3_s2", "kernel_size: 3 stride: 2")
    _inception(b, "inception_4a", 192, 96, 208, 16, 48, 64)
    _inception(b, "inception_4b", 160, 112, 224, 24, 64, 64)
    _inception(b, "inception_4c", 128, 128, 256, 24, 64, 64)
    _inception(b, "inception_4d", 112, 144, 288, 32, 64, 64)
    _inception(b, "inception_4e", 256, 160, 320, 32, 128, 128)
    b.pool("pool4/3x3_s2", "kernel_size: 3 stride: 2")
    _inception(b, "inception_5a", 256, 160, 320, 32, 128, 128)
    _inception(b, "inception_5b", 384, 192, 384, 48, 128, 128)
    b.pool("pool5", f"pool: AVE kernel_size: {7 if size == 224 else 1} stride: 1")
    b.inside("Dropout", "drop")
    b.dense("loss3/classifier", classes, relu=False, exact=True)
    return b.text()


def resnet50(width=1, size=224, classes=1000):
    b = Builder("ResNet-50", (10, 3, size, size), width)
    b.conv("conv1", 64, 7, "pad: 3 stride: 2", relu=False)
    b.norm("conv1")
    b.pool("pool1", "kernel_size: 3 stride: 2")
    for stage, (channels, blocks) in enumerate(zip((64, 128, 256, 512), (3, 4, 6, 3), strict=True), 2):
        for index in range(blocks):
            name, start = f"res{stage}{chr(97 + index)}", b.at
            stride = "stride: 2" if index == 0 and stage > 2 else ""
            shortcut = start
            if index == 0:
                shortcut = b.conv(f"{name}_branch1", channels * 4, 1, f"bias_term: false {stride}", relu=False)
                b.norm(f"{name}_branch1", relu=False)
            b.conv(f"{name}_2a", channels, 1, f"bias_term: false {stride}", relu=False, bottom=start)
            b.norm(f"{name}_2a")
            b.conv(f"{name}_2b", channels, 3, "bias_term: false pad: 1", relu=False)
            b.norm(f"{name}_2b")
            b.conv(f"{name}_2c", channels * 4, 1, "bias_term: false", relu=False)
            b.norm(f"{name}_2c", relu=False)
            b.add("Eltwise", name, f"{shortcut} {b.at}")
            b.inside("ReLU", f"{name}_relu")
    b.pool("pool5", "pool: AVE kernel_size: 7 stride: 1" if size == 224 else "pool: AVE global_pooling: true")
    b.dense("fc1000", classes, relu=False, exact=True)
    return b.text()


def squeezenet(width=1, size=227, classes=1000):
    b = Builder("SqueezeNet", (10, 3, size, size), width)
    b.conv("conv1", 64, 3, "stride: 2")
    b.pool("pool1", "kernel_size: 3 stride: 2")
    for index, squeezed in enumerate((16, 16, 32, 32, 48, 48, 64, 64), 2):
        start = b.conv(f"fire{index}/squeeze", squeezed, 1)
        ends = [b.conv(f"fire{index}/expand1", squeezed * 4, 1)]
        ends.append(b.conv(f"fire{index}/expand3", squeezed * 4, 3, "pad: 1", bottom=start))
        b.add("Concat", f"fire{index}/concat", " ".join(ends))
        if index in {3, 5}:
            b.pool(f"pool{index}", "kernel_size: 3 stride: 2")
    b.inside("Dropout", "drop9")
    b.conv("conv10", classes, 1, exact=True)
    b.pool("pool10", "pool: AVE global_pooling: true")
    return b.text()


def mobilenet(width=1, size=224, classes=1000):
    b = Builder("MobileNet", (10, 3, size, size), width)
    b.conv("conv1", 32, 3, "bias_term: false pad: 1 stride: 2", relu=False)
    b.norm("conv1")
    made = 32
    plan = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]
    for index, (channels, stride) in enumerate(plan, 2):
        group = b.wide(made)
        b.conv(
            f"conv{index}/dw",
            made,
            3,
            f"bias_term: false pad: 1 stride: {stride} group: {group} engine: CAFFE",
            relu=False,
        )
        b.norm(f"conv{index}/dw")
        b.conv(f"conv{index}/sep", channels, 1, "bias_term: false", relu=False)
        b.norm(f"conv{index}/sep")
        made = channels
    b.pool("pool6", "pool: AVE global_pooling: true")
    b.conv("fc7", classes, 1, relu=False, exact=True)
    return b.text()


def nin(width=1, size=224, classes=1000):
    b = Builder("NiN", (10, 3, size, size), width)
    plan = ((96, 11, "stride: 4"), (256, 5, "pad: 2"), (384, 3, "pad: 1"), (1024, 3, "pad: 1"))
    for index, (channels, kernel, more) in enumerate(plan, 1):
        b.conv(f"conv{index}", channels, kernel, more)
        b.conv(f"cccp{index}a", channels, 1)
        last = index == 4
        b.conv(f"cccp{index}b", classes if last else channels, 1, exact=last)
        if not last:
            b.pool(f"pool{index}", "pool: MAX kernel_size: 3 stride: 2")
    b.pool("pool4", "pool: AVE global_pooling: true")
    return b.text()


def fcn8s(width=1, size=96, classes=21):
    """A fully convolutional segmentation network: pad 100, three deconvolutions, crops with offsets."""
    b = Builder("FCN-8s", (1, 3, size, size + 11), width)
    pools = {}
    for block, (channels, count) in enumerate(zip((64, 128, 256, 512, 512), (2, 2, 3, 3, 3), strict=True), 1):
        for index in range(1, count + 1):
            b.conv(f"conv{block}_{index}", channels, 3, f"pad: {100 if (block, index) == (1, 1) else 1}")
        pools[block] = b.pool(f"pool{block}", "kernel_size: 2 stride: 2")
    b.conv("fc6", 4096, 7)
    b.conv("fc7", 4096, 1)
    b.conv("score_fr", classes, 1, relu=False, exact=True)
    up = f"num_output: {classes} bias_term: false"
    upscored = b.add("Deconvolution", "upscore2", convolution_param=f"{up} kernel_size: 4 stride: 2")
    for block, offset in ((4, 5), (3, 9)):
        b.conv(f"score_pool{block}", classes, 1, relu=False, bottom=pools[block], exact=True)
        b.add("Crop", f"score_pool{block}c", f"{b.at} {upscored}", crop_param=f"axis: 2 offset: {offset}")
        b.add("Eltwise", f"fuse_pool{block}", f"{upscored} {b.at}", eltwise_param="operation: SUM")
        kernel, stride = (4, 2) if block == 4 else (16, 8)
        text = f"{up} group: {classes} kernel_size: {kernel} stride: {stride}"
        upscored = b.add("Deconvolution", f"upscore_pool{block}", convolution_param=text)
    b.add("Crop", "score", f"{upscored} data", crop_param="axis: 2 offset: 31")
    return b.text("")


ARCHITECTURES = {
    "alexnet": (alexnet, {"size": 67}),
    "caffenet": (caffenet, {"size": 67}),
    "vgg16": (vgg, {"size": 32}),
    "vgg19": (lambda **options: vgg(19, **options), {"size": 32}),
    "googlenet": (googlenet, {"size": 33}),
    "resnet50": (resnet50, {"size": 40}),
    "squeezenet": (squeezenet, {"size": 50}),
    "mobilenet": (mobilenet, {"size": 40}),
    "nin": (nin, {"size": 80}),
    "fcn8s": (fcn8s, {"size": 16}),
}
