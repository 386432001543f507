# The second norm reads a projection that is scaled by the first: a path, so two ops.
graph "siblings_depend"
opset "" 20
input %h: bf16[batch, seq, 64]
input %wq: bf16[64, 32]
input %wk: bf16[64, 32]
input %wz: bf16[32, 32]
const %wa: bf16[32] = fill(1.25)
const %wb: bf16[32] = fill(0.75)
const %eps: f32[] = 1e-6
const %two: f32[] = 2.0
const %c448: f32[] = 448.0
%a0 = matmul(%h, %wq)
%a_x32 = cast(%a0) {to=f32}
%a_sq = pow(%a_x32, %two)
%a_ms = reduce_mean(%a_sq) {axes=[-1]}
%a_ve = add(%a_ms, %eps)
%a_rt = sqrt(%a_ve)
%a_r = reciprocal(%a_rt)
%a_n = mul(%a_x32, %a_r)
%a_nc = cast(%a_n) {to=bf16}
%a = mul(%wa, %a_nc)
%g = matmul(%a, %wz)
%b0 = matmul(%h, %wk)
%b1 = add(%b0, %g)
%b_x32 = cast(%b1) {to=f32}
%b_sq = pow(%b_x32, %two)
%b_ms = reduce_mean(%b_sq) {axes=[-1]}
%b_ve = add(%b_ms, %eps)
%b_rt = sqrt(%b_ve)
%b_r = reciprocal(%b_rt)
%b_n = mul(%b_x32, %b_r)
%b_nc = cast(%b_n) {to=bf16}
%b = mul(%wb, %b_nc)
output %a
output %b
