# ONNX QuantizeLinear with computed block scales.
graph "quant_linear_blocks"
opset "" 21
input %x: bf16[batch, seq, 256]
const %w: bf16[256] = fill(1.25)
const %eps: f32[] = 1e-6
const %two: f32[] = 2.0
const %c448: f32[] = 448.0
const %back: i64[4] = [0, 0, 8, 32]
%y_x32 = cast(%x) {to=f32}
%y_sq = pow(%y_x32, %two)
%y_ms = reduce_mean(%y_sq) {axes=[-1]}
%y_ve = add(%y_ms, %eps)
%y_rt = sqrt(%y_ve)
%y_r = reciprocal(%y_rt)
%y_n = mul(%y_x32, %y_r)
%y_nc = cast(%y_n) {to=bf16}
%y = mul(%w, %y_nc)
%v = reshape(%y, %back)
%v32 = cast(%v) {to=f32}
%abs = abs(%v32)
%am = reduce_max(%abs) {axes=[-1], keepdims=false}
%s = div(%am, %c448)
%y32 = cast(%y) {to=f32}
%q = quantize_linear(%y32, %s) {axis=-1, block_size=32, to=f8e4m3fn, saturate=true}
output %q
output %s
