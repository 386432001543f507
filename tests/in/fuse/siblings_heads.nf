# q and k norms per head, with different numbers of heads, after the transpose.
graph "siblings_heads"
opset "" 20
input %h: bf16[batch, seq, 64]
input %wq: bf16[64, 128]
input %wk: bf16[64, 64]
const %wa: bf16[32] = fill(1.25)
const %wb: bf16[32] = fill(0.75)
const %qv: i64[4] = [0, 0, 4, 32]
const %kv: i64[4] = [0, 0, 2, 32]
const %eps: f32[] = 1e-6
const %two: f32[] = 2.0
const %c448: f32[] = 448.0
%q0 = matmul(%h, %wq)
%k0 = matmul(%h, %wk)
%q1 = reshape(%q0, %qv)
%k1 = reshape(%k0, %kv)
%q2 = transpose(%q1) {perm=[0, 2, 1, 3]}
%k2 = transpose(%k1) {perm=[0, 2, 1, 3]}
%qn_x32 = cast(%q2) {to=f32}
%qn_sq = pow(%qn_x32, %two)
%qn_ms = reduce_mean(%qn_sq) {axes=[-1]}
%qn_ve = add(%qn_ms, %eps)
%qn_rt = sqrt(%qn_ve)
%qn_r = reciprocal(%qn_rt)
%qn_n = mul(%qn_x32, %qn_r)
%qn_nc = cast(%qn_n) {to=bf16}
%qn = mul(%wa, %qn_nc)
%kn_x32 = cast(%k2) {to=f32}
%kn_sq = pow(%kn_x32, %two)
%kn_ms = reduce_mean(%kn_sq) {axes=[-1]}
%kn_ve = add(%kn_ms, %eps)
%kn_rt = sqrt(%kn_ve)
%kn_r = reciprocal(%kn_rt)
%kn_n = mul(%kn_x32, %kn_r)
%kn_nc = cast(%kn_n) {to=bf16}
%kn = mul(%wb, %kn_nc)
output %qn
output %kn
