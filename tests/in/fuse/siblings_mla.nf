# MLA's dual norm: two projections of one value, one of them split; the second one's quantiser is behind a view.
graph "siblings_mla"
opset "" 20
input %h: bf16[batch, seq, 64]
input %wq: bf16[64, 48]
input %wkv: bf16[64, 40]
const %wa: bf16[48] = fill(1.25)
const %wb: bf16[32] = fill(0.75)
const %sizes: i64[2] = [32, 8]
const %kvview: i64[4] = [0, 1, -1, 32]
const %eps: f32[] = 1e-6
const %two: f32[] = 2.0
const %c448: f32[] = 448.0
%qa = matmul(%h, %wq)
%kva = matmul(%h, %wkv)
%kvc, %kpe = split(%kva, %sizes) {axis=-1}
%qn_x32 = cast(%qa) {to=f32}
%qn_sq = pow(%qn_x32, %two)
%qn_ms = reduce_mean(%qn_sq) {axes=[-1]}
%qn_ve = add(%qn_ms, %eps)
%qn_rt = sqrt(%qn_ve)
%qn_r = reciprocal(%qn_rt)
%qn_n = mul(%qn_x32, %qn_r)
%qn_nc = cast(%qn_n) {to=bf16}
%qn = mul(%wa, %qn_nc)
%qq_32 = cast(%qn) {to=f32}
%qq_ab = abs(%qq_32)
%qq_am = reduce_max(%qq_ab) {axes=[-1]}
%qq_s = div(%qq_am, %c448)
%qq_d = div(%qq_32, %qq_s)
%qq = cast(%qq_d) {to=f8e4m3fn}
%kn_x32 = cast(%kvc) {to=f32}
%kn_sq = pow(%kn_x32, %two)
%kn_ms = reduce_mean(%kn_sq) {axes=[-1]}
%kn_ve = add(%kn_ms, %eps)
%kn_rt = sqrt(%kn_ve)
%kn_r = reciprocal(%kn_rt)
%kn_n = mul(%kn_x32, %kn_r)
%kn_nc = cast(%kn_n) {to=bf16}
%kn = mul(%wb, %kn_nc)
%kv = reshape(%kn, %kvview)
%kq_32 = cast(%kv) {to=f32}
%kq_ab = abs(%kq_32)
%kq_am = reduce_max(%kq_ab) {axes=[-1]}
%kq_s = div(%kq_am, %c448)
%kq_d = div(%kq_32, %kq_s)
%kq = cast(%kq_d) {to=f8e4m3fn}
output %qq
output %qq_s
output %kq
output %kq_s
output %kn
output %kpe
