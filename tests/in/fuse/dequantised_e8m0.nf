# Blocks of MXFP8, whose scales are powers of two in bytes, dequantised to bf16.
graph "dequantised_e8m0"
opset "" 24
input %x: bf16[batch, seq, 256]
const %w: bf16[256] = fill(1.25)
const %eps: f32[] = 1e-6
const %two: f32[] = 2.0
const %groups: i64[4] = [0, 0, 8, 32]
const %flat: i64[3] = [0, 0, 256]
const %tiny: f32[] = 1e-30
const %eight: f32[] = 8.0
const %b: f32[] = 2.0
%y_x32 = cast(%x) {to=f32}
%y_sq = pow(%y_x32, %two)
%y_ms = reduce_mean(%y_sq) {axes=[-1]}
%y_ve = add(%y_ms, %eps)
%y_rt = sqrt(%y_ve)
%y_r = reciprocal(%y_rt)
%y_n = mul(%y_x32, %y_r)
%y_nc = cast(%y_n) {to=bf16}
%y = mul(%w, %y_nc)
%v = reshape(%y, %groups)
%v32 = cast(%v) {to=f32}
%abs = abs(%v32)
%am = reduce_max(%abs) {axes=[-1], keepdims=false}
%amc = clip(%am, %tiny)
%lg = log2(%amc)
%fl = floor(%lg)
%e = sub(%fl, %eight)
%f2 = pow(%b, %e)
%s = cast(%f2) {to=f8e8m0}
%y32 = cast(%y) {to=f32}
%q = quantize_linear(%y32, %f2) {axis=-1, block_size=32, to=f8e4m3fn, saturate=true}
%f = dequantize_linear(%q, %s) {axis=-1, block_size=32, to=bf16}
output %f
