"""A mistake raises torch's exception class, and the message names the argument, its value and what would be right."""

import pytest
import torch
import torch.nn.functional as F

from tritonconv import functional as TF

X, W, B = torch.zeros(2, 4, 7, 7), torch.zeros(4, 4, 3, 3), torch.zeros(4)
PLACES = torch.zeros(2, 4, 7, 7, dtype=torch.int64)
COLUMNS = torch.zeros(2, 12, 36)

# (the call, with torch's functions or ours; what our message must say)
MISTAKES = {
    # --- conv2d: sizes ---
    "2-D input": (lambda f: f.conv2d(X[0, 0], W), r"3D \(unbatched\) or 4D \(batched\) input to conv2d.*\[7, 7\]"),
    "5-D input": (lambda f: f.conv2d(X[None], W), r"input to conv2d.*\[1, 2, 4, 7, 7\]"),
    "3-D weight": (lambda f: f.conv2d(X, W[0]), r"weight.*\[4, 3, 3\]"),
    "channels": (lambda f: f.conv2d(X[:, :3], W), r"input\[2, 3, 7, 7\] to have 4 channels, but got 3"),
    "too many channels": (lambda f: f.conv2d(X, W[:, :3]), r"to have 3 channels, but got 4"),
    "5-D weight": (lambda f: f.conv2d(X, W[None], padding="same"), r"weight of 4 dimensions.*\[1, 4, 4, 3, 3\]"),
    "channels of an unbatched input": (lambda f: f.conv2d(X[0, :3], W), r"to have 4 channels, but got 3"),
    "groups that do not divide": (
        lambda f: f.conv2d(X, W, groups=3),
        r"groups=3, expected weight to be divisible by 3",
    ),
    "groups 0": (lambda f: f.conv2d(X, W, groups=0), r"non-positive groups.*groups=0"),
    "groups -1": (lambda f: f.conv2d(X, W, groups=-1), r"non-positive groups.*groups=-1"),
    "more groups than filters": (lambda f: f.conv2d(X, W[:2, :1], groups=4), r"weight to be at least 4 at dimension 0"),
    "bias length": (lambda f: f.conv2d(X, W, B[:3]), r"bias to be 1-dimensional with 4 elements.*\[3\]"),
    "bias of four and one": (lambda f: f.conv2d(X, W, B[:, None]), r"bias to be 1-dimensional.*\[4, 1\]"),
    "bias of two axes": (lambda f: f.conv2d(X, W, B[None]), r"bias to be 1-dimensional.*\[1, 4\]"),
    "filter too large": (
        lambda f: f.conv2d(X, X.new_zeros(4, 4, 9, 3)),
        r"input size.*\(7 x 7\).*Kernel size.*\(9 x 3\)",
    ),
    "filter too large by one": (lambda f: f.conv2d(X, X.new_zeros(4, 4, 8, 3)), r"Kernel size.*\(8 x 3\)"),
    "dilated filter too large": (lambda f: f.conv2d(X, W, dilation=4), r"\(7 x 7\).*\(9 x 9\)"),
    "empty picture": (lambda f: f.conv2d(X[:, :, :0], W, padding=2), r"input shape: \[2, 4, 0, 7\]"),
    "no filters": (lambda f: f.conv2d(X, W[:0]), r"weight.*\[0, 4, 3, 3\]"),
    # --- conv2d: arguments ---
    "stride 0": (lambda f: f.conv2d(X, W, stride=0), r"non-positive stride.*stride=\[0, 0\]"),
    "stride (1,-1)": (lambda f: f.conv2d(X, W, stride=(1, -1)), r"non-positive stride.*stride=\[1, -1\]"),
    "three strides": (lambda f: f.conv2d(X, W, stride=(1, 1, 1)), r"stride.*2 values.*\[1, 1, 1\]"),
    "no stride": (lambda f: f.conv2d(X, W, stride=[]), r"stride.*\[\]"),
    "dilation 0": (lambda f: f.conv2d(X, W, dilation=0), r"non-positive dilation.*dilation=\[0, 0\]"),
    "negative padding": (lambda f: f.conv2d(X, W, padding=-1), r"negative padding.*padding=\[-1, -1\]$"),
    "three paddings": (lambda f: f.conv2d(X, W, padding=(1, 1, 1)), r"padding.*2 values.*\[1, 1, 1\]"),
    "unknown padding": (lambda f: f.conv2d(X, W, padding="full"), r"padding.*'full'.*'valid' or 'same'"),
    "'same' with a stride": (lambda f: f.conv2d(X, W, padding="same", stride=2), r"padding='same'.*strided"),
    "'same' with one stride": (lambda f: f.conv2d(X, W, padding="same", stride=(1, 2)), r"padding='same'.*strided"),
    # --- conv2d: types ---
    "float stride": (lambda f: f.conv2d(X, W, stride=1.5), r"stride.*1\.5"),
    "bool stride": (lambda f: f.conv2d(X, W, stride=True), r"stride.*True"),
    "str stride": (lambda f: f.conv2d(X, W, stride="2"), r"stride.*'2'"),
    "float padding": (lambda f: f.conv2d(X, W, padding=0.5), r"padding.*0\.5"),
    "float dilation": (lambda f: f.conv2d(X, W, dilation=1.5), r"dilation.*1\.5"),
    "float groups": (lambda f: f.conv2d(X, W, groups=1.5), r"groups.*1\.5"),
    "bool groups": (lambda f: f.conv2d(X, W, groups=True), r"groups.*True"),
    "list for input": (lambda f: f.conv2d([1], W), r"'input'.*must be Tensor, not list"),
    "None for weight": (lambda f: f.conv2d(X, None), r"'weight'.*must be Tensor, not NoneType"),
    "list for bias": (lambda f: f.conv2d(X, W, [1]), r"'bias'.*must be Tensor, not list"),
    "unknown keyword": (lambda f: f.conv2d(X, W, strides=1), r"strides"),
    # --- conv2d: dtypes ---
    "dtype of weight": (lambda f: f.conv2d(X, W.double()), r"input.*float32.*weight.*float64.*same"),
    "dtype of bias": (lambda f: f.conv2d(X, W, B.double()), r"input.*float32.*bias.*float64.*same"),
    "bool tensors": (lambda f: f.conv2d(X.bool(), W.bool()), r"not implemented for.*bool"),
    "8-bit floats": (
        lambda f: f.conv2d(X.to(torch.float8_e4m3fn), W.to(torch.float8_e4m3fn)),
        r"not implemented for.*float8",
    ),
    # --- max_pool2d ---
    "pool: 2-D input": (lambda f: f.max_pool2d(X[0, 0], 2), r"input.*\[7, 7\]"),
    "pool: 5-D input": (lambda f: f.max_pool2d(X[None], 2), r"input.*\[1, 2, 4, 7, 7\]"),
    "pool: kernel -1": (lambda f: f.max_pool2d(X, -1), r"kernel_size.*-1"),
    "pool: kernel 0": (lambda f: f.max_pool2d(X, 0), r"kernel_size.*0"),
    "pool: three kernels": (lambda f: f.max_pool2d(X, (2, 2, 2)), r"kernel_size.*\[2, 2, 2\]"),
    "pool: float kernel": (lambda f: f.max_pool2d(X, 2.5), r"kernel_size.*2\.5"),
    "pool: str kernel": (lambda f: f.max_pool2d(X, "2"), r"kernel_size.*'2'"),
    "pool: stride 0": (lambda f: f.max_pool2d(X, 2, 0), r"stride.*0"),
    "pool: stride -1": (lambda f: f.max_pool2d(X, 2, -1), r"stride.*-1"),
    "pool: three strides": (lambda f: f.max_pool2d(X, 2, (1, 1, 1)), r"stride.*\[1, 1, 1\]"),
    "pool: dilation 0": (lambda f: f.max_pool2d(X, 2, dilation=0), r"dilation.*0"),
    "pool: padding -1": (lambda f: f.max_pool2d(X, 2, padding=-1), r"padding.*-1"),
    "pool: padding over half": (lambda f: f.max_pool2d(X, 2, padding=2), r"at most half.*pad=2.*kernel_size=2"),
    "pool: padding over half, dilated": (
        lambda f: f.max_pool2d(X, 3, padding=2, dilation=2),
        r"half.*pad=2.*kernel_size=3",
    ),
    "pool: str padding": (lambda f: f.max_pool2d(X, 2, padding="same"), r"padding.*'same'"),
    "pool: window too large": (lambda f: f.max_pool2d(X, 9), r"input size.*output size.*too small"),
    "pool: no channels": (lambda f: f.max_pool2d(X[:, :0], 2), r"\[2, 0, 7, 7\]"),
    "pool: empty picture": (lambda f: f.max_pool2d(X[..., :0], 2), r"\[2, 4, 7, 0\]"),
    "pool: bool input": (lambda f: f.max_pool2d(X.bool(), 2), r"not implemented for.*bool"),
    "pool: complex input": (lambda f: f.max_pool2d(X.cfloat(), 2), r"not implemented for.*complex"),
    "pool: list for input": (lambda f: f.max_pool2d([1], 2), r"'input'.*must be Tensor, not list"),
    # --- other poolings, and other numbers of axes ---
    "avg: divisor 0": (
        lambda f: f.avg_pool2d(X, 2, divisor_override=0),
        r"divisor must be not zero.*divisor_override=0",
    ),
    "avg: padding over half": (lambda f: f.avg_pool2d(X, 2, padding=2), r"at most half.*pad=2.*kernel_size=2"),
    "avg: 5-D input": (lambda f: f.avg_pool2d(X[None], 2), r"input.*\[1, 2, 4, 7, 7\]"),
    "avg: window too large": (lambda f: f.avg_pool3d(X, 9), r"input image.*smaller than kernel size.*9"),
    "avg: bool input": (lambda f: f.avg_pool2d(X.bool(), 2), r"not implemented for.*bool"),
    "lp: norm 0": (lambda f: f.lp_pool2d(X, 0, 2), r"norm_type must not be zero"),
    "lp: 5-D input": (lambda f: f.lp_pool2d(X[None], 2, 2), r"input.*\[1, 2, 4, 7, 7\]"),
    "conv1d: 4-D input": (lambda f: f.conv1d(X, W[0]), r"2D \(unbatched\) or 3D \(batched\) input to conv1d"),
    "conv3d: 3-D input": (lambda f: f.conv3d(X[0], W[None]), r"4D \(unbatched\) or 5D \(batched\) input to conv3d"),
    "max_pool1d: 4-D input": (lambda f: f.max_pool1d(X, 2), r"2D \(unbatched\) or 3D \(batched\) input to max_pool1d"),
    "max_pool3d: two kernels": (lambda f: f.max_pool3d(X, (2, 2)), r"kernel_size.*3 values.*\[2, 2\]"),
    # --- transposed ---
    "transposed: channels": (lambda f: f.conv_transpose2d(X[:, :3], W), r"transposed=1.*to have 4 channels, but got 3"),
    "transposed: groups that do not divide": (
        lambda f: f.conv_transpose2d(X, W, groups=3),
        r"groups=3, expected weight to be divisible by 3",
    ),
    "transposed: groups 0": (lambda f: f.conv_transpose2d(X, W, groups=0), r"non-positive groups.*groups=0"),
    "transposed: bias length": (lambda f: f.conv_transpose2d(X, W, B[:3]), r"bias.*with 4 elements.*\[3\]"),
    "transposed: output padding": (
        lambda f: f.conv_transpose2d(X, W, None, 2, 0, 2),
        r"output padding must be smaller.*output_padding=\[2, 2\], stride=\[2, 2\]",
    ),
    "transposed: negative padding": (lambda f: f.conv_transpose2d(X, W, padding=-1), r"negative padding.*\[-1, -1\]"),
    "transposed: negative output padding": (
        lambda f: f.conv_transpose2d(X, W, None, 2, 0, -1),
        r"negative output_padding.*\[-1, -1\]",
    ),
    "transposed: nothing left": (
        lambda f: f.conv_transpose2d(X[..., :1, :], W, padding=2),
        r"Output size is too small",
    ),
    "transposed: str padding": (lambda f: f.conv_transpose2d(X, W, padding="same"), r"padding.*'same'"),
    "transposed: 2-D input": (lambda f: f.conv_transpose2d(X[0, 0], W), r"input to conv_transpose2d.*\[7, 7\]"),
    "transposed: dtype of weight": (
        lambda f: f.conv_transpose2d(X, W.double()),
        r"input.*float32.*weight.*float64.*same",
    ),
    "transposed: stride 0": (lambda f: f.conv_transpose2d(X, W, stride=0), r"non-positive stride.*\[0, 0\]"),
    # --- resampling ---
    "interpolate: no size": (lambda f: f.interpolate(X), r"either size or scale_factor"),
    "interpolate: both": (lambda f: f.interpolate(X, 3, 2.0), r"only one of size or scale_factor"),
    "interpolate: one size too many": (lambda f: f.interpolate(X, (3, 3, 3)), r"spatial dimensions.*size=\(3, 3, 3\)"),
    "interpolate: one scale": (lambda f: f.interpolate(X, scale_factor=[2.0]), r"spatial.*scale_factor=\[2\.0\]"),
    "interpolate: str": (lambda f: f.interpolate(X, scale_factor="2"), r"scale_factor.*'2'"),
    "interpolate: NaN": (lambda f: f.interpolate(X, scale_factor=float("nan")), r"scale_factor.*nan"),
    "interpolate: infinity": (lambda f: f.interpolate(X, scale_factor=(2.0, float("inf"))), r"scale_factor.*inf"),
    "interpolate: float size": (lambda f: f.interpolate(X, (2.5, 3)), r"size.*2\.5"),
    "interpolate: align_corners": (lambda f: f.interpolate(X, 3, align_corners=True), r"align_corners=True.*'nearest'"),
    "interpolate: recompute": (lambda f: f.interpolate(X, 3, recompute_scale_factor=True), r"recompute_scale_factor"),
    "interpolate: antialias": (lambda f: f.interpolate(X, 3, antialias=True), r"Anti-alias.*'nearest'"),
    "interpolate: lanczos": (lambda f: f.interpolate(X, 3, mode="lanczos"), r"antialias=False"),
    "interpolate: mode of one axis": (lambda f: f.interpolate(X, 3, mode="linear"), r"4D.*linear"),
    "interpolate: unknown mode": (lambda f: f.interpolate(X, 3, mode="spline"), r"got spline"),
    "interpolate: 2-D input": (lambda f: f.interpolate(X[0, 0], scale_factor=2.0), r"got 2D"),
    "interpolate: nothing left": (lambda f: f.interpolate(X, scale_factor=0.1), r"greater than 0.*\[0, 0\]"),
    "interpolate: no channels": (lambda f: f.interpolate(X[:, :0], 3), r"\[2, 0, 7, 7\]"),
    "interpolate: bool input": (lambda f: f.interpolate(X.bool(), 3, mode="bilinear"), r"not implemented for.*bool"),
    "adaptive: empty picture": (lambda f: f.adaptive_avg_pool2d(X[..., :0], 3), r"non-zero size.*\[2, 4, 7, 0\]"),
    "adaptive max: empty picture": (lambda f: f.adaptive_max_pool2d(X[..., :0], 3), r"non-zero size.*\[2, 4, 7, 0\]"),
    "adaptive max: 5-D input": (lambda f: f.adaptive_max_pool2d(X[None], 3), r"input.*\[1, 2, 4, 7, 7\]"),
    "adaptive: negative size": (lambda f: f.adaptive_avg_pool2d(X, (3, -1)), r"output_size.*-1"),
    "adaptive: one of two sizes": (lambda f: f.adaptive_avg_pool2d(X, (3,)), r"output_size=\(3,\)"),
    "adaptive max: one of two sizes": (lambda f: f.adaptive_max_pool2d(X, (3,)), r"output_size=\(3,\)"),
    "adaptive: three sizes": (lambda f: f.adaptive_avg_pool2d(X, (3, 3, 3)), r"output_size.*2 values"),
    "adaptive: 5-D input": (lambda f: f.adaptive_avg_pool2d(X[None], 3), r"input.*\[1, 2, 4, 7, 7\]"),
    # --- max_unpool2d ---
    "unpool: int32 indices": (lambda f: f.max_unpool2d(X, PLACES.int(), 2), r"int64.*[iI]nt"),
    "unpool: shape of indices": (lambda f: f.max_unpool2d(X, PLACES[:1], 2), r"same.*\[2, 4, 7, 7\].*\[1, 4, 7, 7\]"),
    "unpool: index too large": (lambda f: f.max_unpool2d(X, PLACES + 196, 2), r"invalid max index.*14x14"),
    "unpool: negative index": (lambda f: f.max_unpool2d(X, PLACES - 1, 2), r"invalid max index.*14x14"),
    "unpool: size too large": (
        lambda f: f.max_unpool2d(X, PLACES, 2, output_size=(14, 16)),
        r'output_size "\(14, 16\)" \(dim 1 must be between 12 and 16\)',
    ),
    "unpool: one size": (lambda f: f.max_unpool2d(X, PLACES, 2, output_size=(14,)), r"2 or 4 elements.*'1'"),
    "unpool: negative size": (lambda f: f.max_unpool2d(X, PLACES, 1, 1, 5), r"non-negative"),
    "unpool: no channels": (lambda f: f.max_unpool2d(X[:, :0], PLACES[:, :0], 2), r"non-zero size.*\[2, 0, 7, 7\]"),
    "unpool: 5-D input": (lambda f: f.max_unpool2d(X[None], PLACES[None], 2), r"[iI]nput.*max_unpool"),
    "unpool: bool input": (lambda f: f.max_unpool2d(X.bool(), PLACES, 2), r"not implemented for.*[bB]ool"),
    # --- pixel_shuffle and pixel_unshuffle ---
    "shuffle: channels": (lambda f: f.pixel_shuffle(X[:, :2], 2), r"divisible by the square.*\(-3\)=2.*by 4"),
    "shuffle: 2-D input": (lambda f: f.pixel_shuffle(X[0, 0], 2), r"at least 3 dimensions.*2"),
    "shuffle: factor 0": (lambda f: f.pixel_shuffle(X, 0), r"positive upscale_factor.*0"),
    "shuffle: float factor": (lambda f: f.pixel_shuffle(X, 1.5), r"'upscale_factor'.*int.*"),
    "unshuffle: height": (lambda f: f.pixel_unshuffle(X, 2), r"height.*\(-2\)=7.*by 2"),
    "unshuffle: width": (lambda f: f.pixel_unshuffle(X[..., :6, :], 2), r"width.*\(-1\)=7.*by 2"),
    "unshuffle: factor -1": (lambda f: f.pixel_unshuffle(X, -1), r"positive downscale_factor.*-1"),
    # --- unfold and fold ---
    "unfold: 5-D input": (lambda f: f.unfold(X[None], 2), r"input.*\[1, 2, 4, 7, 7\]"),
    "unfold: kernel 0": (lambda f: f.unfold(X, 0), r"kernel_size.*0"),
    "unfold: three kernels": (lambda f: f.unfold(X, (2, 2, 2)), r"kernel_size.*\[2, 2, 2\]"),
    "unfold: stride 0": (lambda f: f.unfold(X, 2, stride=0), r"stride.*0"),
    "unfold: dilation 0": (lambda f: f.unfold(X, 2, dilation=0), r"dilation.*0"),
    "unfold: padding -1": (lambda f: f.unfold(X, 2, padding=-1), r"padding.*-1"),
    "unfold: kernel too large": (lambda f: f.unfold(X, 9), r"\(?7.*7.*9.*9"),
    "unfold: no channels": (lambda f: f.unfold(X[:, :0], 2), r"\[2, 0, 7, 7\]"),
    "unfold: int input": (lambda f: f.unfold(X.int(), 2), r"not implemented for.*int32"),
    "fold: number of blocks": (lambda f: f.fold(COLUMNS, (8, 7), 2), r"7 [x*] 6.*36"),
    "fold: too many blocks": (lambda f: f.fold(COLUMNS, (6, 7), 2), r"5 [x*] 6.*36"),
    "fold: channels": (lambda f: f.fold(COLUMNS, (7, 7), (5, 1)), r"divisible.*kernel_size.*12.*5"),
    "fold: 4-D input": (lambda f: f.fold(COLUMNS[None], (7, 7), 2), r"input.*\[1, 2, 12, 36\]"),
    "fold: 1-D input": (lambda f: f.fold(COLUMNS[0, 0], (7, 7), 2), r"input.*\[36\]"),
    "fold: three sizes": (lambda f: f.fold(COLUMNS, (7, 7, 7), 2), r"output_size.*\[7, 7, 7\]"),
    "fold: kernel larger than output": (lambda f: f.fold(COLUMNS, (1, 1), 2), r"1.*1.*2.*2"),
    "fold: int input": (lambda f: f.fold(COLUMNS.int(), (7, 7), 2), r"not implemented for.*int32"),
    # --- relu ---
    "relu: complex input": (lambda f: f.relu(X.cfloat()), r"not implemented for.*complex"),
    "relu: list for input": (lambda f: f.relu([1]), r"'input'.*must be Tensor, not list"),
    "relu: in place on a leaf": (lambda f: f.relu(X.clone().requires_grad_(), inplace=True), r"leaf.*in-place"),
    "relu: in place on an expanded tensor": (
        lambda f: f.relu(torch.zeros(3, 1).expand(3, 4), inplace=True),
        r"single memory location",
    ),
}


@pytest.mark.parametrize(("call", "message"), MISTAKES.values(), ids=MISTAKES)
def test_class_is_torchs_and_message_names_the_argument(call, message):
    with pytest.raises(Exception) as theirs:
        call(F)
    with pytest.raises(theirs.type, match=message) as ours:
        call(TF)
    assert ours.type is theirs.type


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.uint8, torch.complex64], ids=str)
@pytest.mark.parametrize(
    "call",
    [
        lambda x, w: TF.conv2d(x, w),
        lambda x, w: TF.conv2d_bias_relu(x, w),
        lambda x, w: TF.conv2d_bias_relu_max_pool2d(x, w, pool_kernel_size=2),
        lambda x, w: TF.max_pool2d(x, 2),
        lambda x, w: TF.relu(x),
        lambda x, w: TF.unfold(x, 2),
        lambda x, w: TF.fold(x[0, :, :6, :6].reshape(4, 36), (7, 7), 2),
    ],
    ids=["conv2d", "conv2d_bias_relu", "conv2d_bias_relu_max_pool2d", "max_pool2d", "relu", "unfold", "fold"],
)
def test_dtypes_we_do_not_serve(call, dtype):
    """torch's CPU kernels take some of these; ours say which four they take."""
    with pytest.raises(NotImplementedError, match=r"float16, bfloat16, float32 or float64"):
        call(X.to(dtype), W.to(dtype))


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: X.to_sparse(), "layout torch.sparse_coo"),
        (lambda: X.to_mkldnn(), "layout torch._mkldnn"),
        (lambda: torch.nested.nested_tensor([X[0], X[1]], layout=torch.jagged), r"a nested one \(torch.jagged\)"),
    ],
    ids=["sparse", "mkldnn", "jagged"],
)
@pytest.mark.parametrize("call", [lambda x: TF.conv2d(x, W), lambda x: TF.max_pool2d(x, 2), TF.relu, TF.interpolate])
def test_tensors_of_another_kind_are_refused_in_a_line(call, made, message):
    with pytest.raises(NotImplementedError, match=rf"'input' must be a dense tensor, but got {message}$"):
        call(made())


@pytest.mark.parametrize(
    "convolve",
    [TF.conv2d, TF.conv2d_bias_relu, lambda *t, **k: TF.conv2d_bias_relu_max_pool2d(*t, pool_kernel_size=2, **k)],
    ids=["conv2d", "conv2d_bias_relu", "conv2d_bias_relu_max_pool2d"],
)
class TestEveryConvolution:
    def test_unknown_algorithm(self, convolve):
        with pytest.raises(ValueError, match=r"auto, direct, im2col, implicit_gemm.*'winograd'"):
            convolve(X, W, algorithm="winograd")

    def test_two_devices(self, convolve):
        with pytest.raises(RuntimeError, match=r"same device.*cpu \(input\) and meta \(weight\)"):
            convolve(X, W.to("meta"))
        with pytest.raises(RuntimeError, match=r"same device.*cpu \(input\) and meta \(bias\)"):
            convolve(X, W, B.to("meta"))

    def test_rank_names_the_operator(self, convolve):
        with pytest.raises(RuntimeError, match=r"input to conv2d"):
            convolve(X[0, 0], W)


def test_unknown_algorithm_of_a_transposed_convolution():
    with pytest.raises(ValueError, match=r"auto, direct, im2col, implicit_gemm.*'winograd'"):
        TF.conv_transpose2d(X, W, algorithm="winograd")


def test_a_transposed_convolution_that_leaves_nothing_is_refused():
    """torch answers an empty image."""
    with pytest.raises(RuntimeError, match=r"\(2 x 7\).*\(0 x 5\).*Output size is too small"):
        TF.conv_transpose2d(X[..., :2, :], W, padding=2)


def test_fused_pool_names_its_own_arguments():
    with pytest.raises(RuntimeError, match=r"kernel_size.*\[2, 2, 2\]"):
        TF.conv2d_bias_relu_max_pool2d(X, W, pool_kernel_size=(2, 2, 2))
    with pytest.raises(RuntimeError, match=r"at most half.*pad=2"):
        TF.conv2d_bias_relu_max_pool2d(X, W, pool_kernel_size=2, pool_padding=2)
    with pytest.raises(TypeError, match=r"pool_kernel_size"):
        TF.conv2d_bias_relu_max_pool2d(X, W)


def test_gradient_of_another_shape():
    """The operators are public as torch.ops.tritonconv: what does not fit must not be read beyond its end."""
    dy = torch.zeros(2, 4, 4, 5)
    conv = ([1, 1], [0, 0, 0, 0], [1, 1], 1)
    with pytest.raises(RuntimeError, match=r"dy of size \[2, 4, 5, 5\], but got dy of size \[2, 4, 4, 5\]"):
        torch.ops.tritonconv.convolution_dgrad(dy, W, [7, 7], *conv, "zeros", False, "auto")
    with pytest.raises(RuntimeError, match=r"dy of size \[2, 4, 5, 5\], but got dy of size \[2, 4, 4, 5\]"):
        torch.ops.tritonconv.convolution_wgrad(dy, X, [3, 3], *conv, "zeros", True, False, "auto")
    with pytest.raises(RuntimeError, match=r"input of size \[2, 4, 5, 5\], but got input of size \[2, 4, 4, 5\]"):
        torch.ops.tritonconv.convolution_transpose(dy, W, None, [7, 7], *conv, "auto")
    argmax, pool = torch.zeros(2, 4, 2, 2, dtype=torch.uint8), ([2, 2], [2, 2], [0, 0], [1, 1])
    with pytest.raises(RuntimeError, match=r"dy of size \[2, 4, 2, 2\], but got dy of size \[2, 4, 2, 1\]"):
        torch.ops.tritonconv.max_pool_backward(dy[..., :2, :1], argmax, [4, 4], *pool, False)
    with pytest.raises(RuntimeError, match=r"x of size \[2, 4, 4, 5\], but got x of size \[1, 4, 4, 5\]"):
        torch.ops.tritonconv.max_pool_gather(dy[:1], argmax, *pool, False)
    with pytest.raises(RuntimeError, match=r"dy of size \[2, 4, 4, 4\], but got dy of size \[2, 4, 4, 5\]"):
        torch.ops.tritonconv.activate_backward(dy, dy[..., :4], "relu")
    with pytest.raises(RuntimeError, match=r"dy of size \[2, 4, 3, 3\], but got dy of size \[2, 4, 4, 5\]"):
        torch.ops.tritonconv.average_pool_backward(dy, [6, 6], [2, 2], [2, 2], [0, 0], False, True, None, False)
    indices = torch.zeros(2, 4, 2, 2, dtype=torch.int64)
    with pytest.raises(RuntimeError, match=r"dy of size \[2, 4, 2, 2\], but got dy of size \[2, 4, 4, 5\]"):
        torch.ops.tritonconv.adaptive_max_pool_backward(dy, indices, [6, 6], False)
    with pytest.raises(RuntimeError, match=r"x of size \[2, 4, 4, 5\], but got x of size \[1, 4, 4, 5\]"):
        torch.ops.tritonconv.adaptive_max_pool_gather(dy[:1], indices, False)
    outside = torch.tensor([[[[0, 1], [20, -1]]]])
    found = torch.ops.tritonconv.max_unpool_backward(torch.ones(1, 1, 4, 5), outside)
    assert found.flatten().tolist() == [1, 1, 0, 0]
