graph "vector"
opset "" 20
input %x: bf16[256]
const %w: bf16[256] = fill(1.25)
const %eps: f32[] = 1e-6
const %two: f32[] = 2.0
%y_x32: f32[256] = cast(%x) {to=f32, saturate=true}
%y_sq: f32[256] = pow(%y_x32, %two)
%y_ms: f32[1] = reduce_mean(%y_sq) {axes=[-1], keepdims=true}
%y_ve: f32[1] = add(%y_ms, %eps)
%y_rt: f32[1] = sqrt(%y_ve)
%y_r: f32[1] = reciprocal(%y_rt)
%y_n: f32[256] = mul(%y_x32, %y_r)
%y_nc: bf16[256] = cast(%y_n) {to=bf16, saturate=true}
%y: bf16[256] = mul(%w, %y_nc)
%z: bf16[256] = neg(%y)
output %z
