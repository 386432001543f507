graph "siblings_depend"
opset "" 20
input %h: bf16[batch, seq, 64]
input %wq: bf16[64, 32]
input %wk: bf16[64, 32]
input %wz: bf16[32, 32]
const %wa: bf16[32] = [1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25]
const %wb: bf16[32] = [0.75, 0.75, 0.75, 0.75, 0.75, 0.75, 0.75, 0.75, 0.75, 0.75, 0.75, 0.75, 0.75, 0.75, 0.75, 0.75, 0.75, 0.75, 0.75, 0.75, 0.75, 0.75, 0.75, 0.75, 0.75, 0.75, 0.75, 0.75, 0.75, 0.75, 0.75, 0.75]
const %eps: f32[] = 1e-6
const %two: f32[] = 2.0
const %c448: f32[] = 448.0
%a0: bf16[batch, seq, 32] = matmul(%h, %wq)
%a_x32: f32[batch, seq, 32] = cast(%a0) {to=f32, saturate=true}
%a_sq: f32[batch, seq, 32] = pow(%a_x32, %two)
%a_ms: f32[batch, seq, 1] = reduce_mean(%a_sq) {axes=[-1], keepdims=true}
%a_ve: f32[batch, seq, 1] = add(%a_ms, %eps)
%a_rt: f32[batch, seq, 1] = sqrt(%a_ve)
%a_r: f32[batch, seq, 1] = reciprocal(%a_rt)
%a_n: f32[batch, seq, 32] = mul(%a_x32, %a_r)
%a_nc: bf16[batch, seq, 32] = cast(%a_n) {to=bf16, saturate=true}
%a: bf16[batch, seq, 32] = mul(%wa, %a_nc)
%g: bf16[batch, seq, 32] = matmul(%a, %wz)
%b0: bf16[batch, seq, 32] = matmul(%h, %wk)
%b1: bf16[batch, seq, 32] = add(%b0, %g)
%b_x32: f32[batch, seq, 32] = cast(%b1) {to=f32, saturate=true}
%b_sq: f32[batch, seq, 32] = pow(%b_x32, %two)
%b_ms: f32[batch, seq, 1] = reduce_mean(%b_sq) {axes=[-1], keepdims=true}
%b_ve: f32[batch, seq, 1] = add(%b_ms, %eps)
%b_rt: f32[batch, seq, 1] = sqrt(%b_ve)
%b_r: f32[batch, seq, 1] = reciprocal(%b_rt)
%b_n: f32[batch, seq, 32] = mul(%b_x32, %b_r)
%b_nc: bf16[batch, seq, 32] = cast(%b_n) {to=bf16, saturate=true}
%b: bf16[batch, seq, 32] = mul(%wb, %b_nc)
output %a
output %b
