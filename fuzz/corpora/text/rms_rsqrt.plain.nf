graph "rms_rsqrt"
opset "" 20
input %x: bf16[batch, seq, 256]
const %w: bf16[256] = fill(1.25)
const %eps: f32[] = 1e-6
const %two: f32[] = 2.0
const %one: f32[] = 1.0
%y_x32: f32[batch, seq, 256] = cast(%x) {to=f32, saturate=true}
%y_sq: f32[batch, seq, 256] = pow(%y_x32, %two)
%y_ms: f32[batch, seq, 1] = reduce_mean(%y_sq) {axes=[-1], keepdims=true}
%y_ve: f32[batch, seq, 1] = add(%y_ms, %eps)
%y_r: f32[batch, seq, 1] = rsqrt(%y_ve)
%y_n: f32[batch, seq, 256] = mul(%y_r, %y_x32)
%y_nc: bf16[batch, seq, 256] = cast(%y_n) {to=bf16, saturate=true}
%y: bf16[batch, seq, 256] = mul(%w, %y_nc)
output %y
