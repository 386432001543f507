# Two norms of one sum: the value of the first one is handed out, and only the second one is relaxed.
graph "one_of_siblings"
opset "" 20
input %x: bf16[batch, seq, 64]
input %res: bf16[batch, seq, 64]
const %wa: bf16[64] = fill(1.25)
const %wb: bf16[64] = fill(0.75)
const %eps: f32[] = 1e-6
const %two: f32[] = 2.0
const %c448: f32[] = 448.0
%h = add(%x, %res)
%a_x32 = cast(%h) {to=f32}
%a_sq = pow(%a_x32, %two)
%a_ms = reduce_mean(%a_sq) {axes=[-1]}
%a_ve = add(%a_ms, %eps)
%a_rt = sqrt(%a_ve)
%a_r = reciprocal(%a_rt)
%a_n = mul(%a_x32, %a_r)
%a_nc = cast(%a_n) {to=bf16}
%a = mul(%wa, %a_nc)
%b_x32 = cast(%h) {to=f32}
%b_sq = pow(%b_x32, %two)
%b_ms = reduce_mean(%b_sq) {axes=[-1]}
%b_ve = add(%b_ms, %eps)
%b_rt = sqrt(%b_ve)
%b_r = reciprocal(%b_rt)
%b_n = mul(%b_x32, %b_r)
%b_nc = cast(%b_n) {to=bf16}
%b = mul(%wb, %b_nc)
%bq_32 = cast(%b) {to=f32}
%bq_ab = abs(%bq_32)
%bq_am = reduce_max(%bq_ab) {axes=[-1]}
%bq_s = div(%bq_am, %c448)
%bq_d = div(%bq_32, %bq_s)
%bq = cast(%bq_d) {to=f8e4m3fn}
output %a
output %bq
output %bq_s
output %h
