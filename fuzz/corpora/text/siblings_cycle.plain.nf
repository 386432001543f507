graph "siblings_cycle"
opset "" 20
input %h: bf16[batch, seq, 64]
input %g: bf16[batch, seq, 64]
input %w1: bf16[64, 32]
input %w2: bf16[64, 32]
input %w3: bf16[64, 32]
input %w4: bf16[64, 32]
const %wa: bf16[32] = [1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25]
const %eps: f32[] = 1e-6
const %two: f32[] = 2.0
const %c448: f32[] = 448.0
%a0: bf16[batch, seq, 32] = matmul(%h, %w1)
%a_x32: f32[batch, seq, 32] = cast(%a0) {to=f32, saturate=true}
%a_sq: f32[batch, seq, 32] = pow(%a_x32, %two)
%a_ms: f32[batch, seq, 1] = reduce_mean(%a_sq) {axes=[-1], keepdims=true}
%a_ve: f32[batch, seq, 1] = add(%a_ms, %eps)
%a_rt: f32[batch, seq, 1] = sqrt(%a_ve)
%a_r: f32[batch, seq, 1] = reciprocal(%a_rt)
%a_n: f32[batch, seq, 32] = mul(%a_x32, %a_r)
%a_nc: bf16[batch, seq, 32] = cast(%a_n) {to=bf16, saturate=true}
%a: bf16[batch, seq, 32] = mul(%wa, %a_nc)
%c0: bf16[batch, seq, 32] = matmul(%g, %w3)
%c_x32: f32[batch, seq, 32] = cast(%c0) {to=f32, saturate=true}
%c_sq: f32[batch, seq, 32] = pow(%c_x32, %two)
%c_ms: f32[batch, seq, 1] = reduce_mean(%c_sq) {axes=[-1], keepdims=true}
%c_ve: f32[batch, seq, 1] = add(%c_ms, %eps)
%c_rt: f32[batch, seq, 1] = sqrt(%c_ve)
%c_r: f32[batch, seq, 1] = reciprocal(%c_rt)
%c_n: f32[batch, seq, 32] = mul(%c_x32, %c_r)
%c_nc: bf16[batch, seq, 32] = cast(%c_n) {to=bf16, saturate=true}
%c: bf16[batch, seq, 32] = mul(%wa, %c_nc)
%wb: bf16[32] = reduce_max(%c) {axes=[0, 1], keepdims=false}
%wd: bf16[32] = reduce_max(%a) {axes=[0, 1], keepdims=false}
%b0: bf16[batch, seq, 32] = matmul(%h, %w2)
%b_x32: f32[batch, seq, 32] = cast(%b0) {to=f32, saturate=true}
%b_sq: f32[batch, seq, 32] = pow(%b_x32, %two)
%b_ms: f32[batch, seq, 1] = reduce_mean(%b_sq) {axes=[-1], keepdims=true}
%b_ve: f32[batch, seq, 1] = add(%b_ms, %eps)
%b_rt: f32[batch, seq, 1] = sqrt(%b_ve)
%b_r: f32[batch, seq, 1] = reciprocal(%b_rt)
%b_n: f32[batch, seq, 32] = mul(%b_x32, %b_r)
%b_nc: bf16[batch, seq, 32] = cast(%b_n) {to=bf16, saturate=true}
%b: bf16[batch, seq, 32] = mul(%wb, %b_nc)
%d0: bf16[batch, seq, 32] = matmul(%g, %w4)
%d_x32: f32[batch, seq, 32] = cast(%d0) {to=f32, saturate=true}
%d_sq: f32[batch, seq, 32] = pow(%d_x32, %two)
%d_ms: f32[batch, seq, 1] = reduce_mean(%d_sq) {axes=[-1], keepdims=true}
%d_ve: f32[batch, seq, 1] = add(%d_ms, %eps)
%d_rt: f32[batch, seq, 1] = sqrt(%d_ve)
%d_r: f32[batch, seq, 1] = reciprocal(%d_rt)
%d_n: f32[batch, seq, 32] = mul(%d_x32, %d_r)
%d_nc: bf16[batch, seq, 32] = cast(%d_n) {to=bf16, saturate=true}
%d: bf16[batch, seq, 32] = mul(%wd, %d_nc)
output %a
output %b
output %c
output %d
