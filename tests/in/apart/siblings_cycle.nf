# Two pairs, each fine alone: the weight of b is made from c, and that of d from a, so merging both pairs would close a cycle.
graph "siblings_cycle"
opset "" 20
input %h: bf16[batch, seq, 64]
input %g: bf16[batch, seq, 64]
input %w1: bf16[64, 32]
input %w2: bf16[64, 32]
input %w3: bf16[64, 32]
input %w4: bf16[64, 32]
const %wa: bf16[32] = fill(1.25)
const %eps: f32[] = 1e-6
const %two: f32[] = 2.0
const %c448: f32[] = 448.0
%a0 = matmul(%h, %w1)
%a_x32 = cast(%a0) {to=f32}
%a_sq = pow(%a_x32, %two)
%a_ms = reduce_mean(%a_sq) {axes=[-1]}
%a_ve = add(%a_ms, %eps)
%a_rt = sqrt(%a_ve)
%a_r = reciprocal(%a_rt)
%a_n = mul(%a_x32, %a_r)
%a_nc = cast(%a_n) {to=bf16}
%a = mul(%wa, %a_nc)
%c0 = matmul(%g, %w3)
%c_x32 = cast(%c0) {to=f32}
%c_sq = pow(%c_x32, %two)
%c_ms = reduce_mean(%c_sq) {axes=[-1]}
%c_ve = add(%c_ms, %eps)
%c_rt = sqrt(%c_ve)
%c_r = reciprocal(%c_rt)
%c_n = mul(%c_x32, %c_r)
%c_nc = cast(%c_n) {to=bf16}
%c = mul(%wa, %c_nc)
%wb = reduce_max(%c) {axes=[0, 1], keepdims=false}
%wd = reduce_max(%a) {axes=[0, 1], keepdims=false}
%b0 = matmul(%h, %w2)
%b_x32 = cast(%b0) {to=f32}
%b_sq = pow(%b_x32, %two)
%b_ms = reduce_mean(%b_sq) {axes=[-1]}
%b_ve = add(%b_ms, %eps)
%b_rt = sqrt(%b_ve)
%b_r = reciprocal(%b_rt)
%b_n = mul(%b_x32, %b_r)
%b_nc = cast(%b_n) {to=bf16}
%b = mul(%wb, %b_nc)
%d0 = matmul(%g, %w4)
%d_x32 = cast(%d0) {to=f32}
%d_sq = pow(%d_x32, %two)
%d_ms = reduce_mean(%d_sq) {axes=[-1]}
%d_ve = add(%d_ms, %eps)
%d_rt = sqrt(%d_ve)
%d_r = reciprocal(%d_rt)
%d_n = mul(%d_x32, %d_r)
%d_nc = cast(%d_n) {to=bf16}
%d = mul(%wd, %d_nc)
output %a
output %b
output %c
output %d
