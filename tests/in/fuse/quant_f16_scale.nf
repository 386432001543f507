# A QuantizeLinear of f16 with an f16 scale: the quotient is rounded to f16.
graph "quant_f16_scale"
opset "" 21
input %x: f16[batch, seq, 256]
const %w: f16[256] = fill(1.25)
const %eps: f32[] = 1e-6
const %two: f32[] = 2.0
const %s: f16[] = 0.0301971
%y_x32 = cast(%x) {to=f32}
%y_sq = pow(%y_x32, %two)
%y_ms = reduce_mean(%y_sq) {axes=[-1]}
%y_ve = add(%y_ms, %eps)
%y_rt = sqrt(%y_ve)
%y_r = reciprocal(%y_rt)
%y_n = mul(%y_x32, %y_r)
%y_nc = cast(%y_n) {to=f16}
%y = mul(%w, %y_nc)
%y16 = cast(%y) {to=f16}
%q = quantize_linear(%y16, %s) {axis=1, block_size=0, to=i8, saturate=true}
output %q
