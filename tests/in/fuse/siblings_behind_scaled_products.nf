# As siblings_behind_dynamic_quantisers, but the products are of the codes and their scales.
graph "siblings_behind_scaled_products"
opset "" 20
input %h: bf16[batch, seq, 64]
input %wq: f8e4m3fn[48, 64]
input %wkv: f8e4m3fn[32, 64]
input %sq: f32[48, 1]
input %skv: f32[]
const %w: bf16[64] = fill(1.5)
const %wa: bf16[48] = fill(1.25)
const %wb: bf16[32] = fill(0.75)
const %eps: f32[] = 1e-6
const %high: f32[] = 448.0
const %half: f32[] = 224.0
%n_x32 = cast(%h) {to=f32}
%n_sq = mul(%n_x32, %n_x32)
%n_ms = reduce_mean(%n_sq) {axes=[-1]}
%n_ve = add(%n_ms, %eps)
%n_r = rsqrt(%n_ve)
%n_n = mul(%n_x32, %n_r)
%n_nc = cast(%n_n) {to=bf16}
%n = mul(%w, %n_nc)
%q1_32 = cast(%n) {to=f32}
%q1_ab = abs(%q1_32)
%q1_am = reduce_max(%q1_ab) {axes=[-1]}
%q1_s = div(%q1_am, %high)
%q1_d = div(%q1_32, %q1_s)
%q1 = cast(%q1_d) {to=f8e4m3fn}
%q2_32 = cast(%n) {to=f32}
%q2_ab = abs(%q2_32)
%q2_am = reduce_max(%q2_ab) {axes=[-1]}
%q2_s = div(%q2_am, %half)
%q2_d = div(%q2_32, %q2_s)
%q2 = cast(%q2_d) {to=f8e4m3fn}
%qa = scaled_matmul(%q1, %wq, %q1_s, %sq) {a=row, b=row, to=bf16}
%kva = scaled_matmul(%q2, %wkv, %q2_s, %skv) {a=row, b=tensor, to=bf16}
%qn_x32 = cast(%qa) {to=f32}
%qn_sq = mul(%qn_x32, %qn_x32)
%qn_ms = reduce_mean(%qn_sq) {axes=[-1]}
%qn_ve = add(%qn_ms, %eps)
%qn_r = rsqrt(%qn_ve)
%qn_n = mul(%qn_x32, %qn_r)
%qn_nc = cast(%qn_n) {to=bf16}
%qn = mul(%wa, %qn_nc)
%kn_x32 = cast(%kva) {to=f32}
%kn_sq = mul(%kn_x32, %kn_x32)
%kn_ms = reduce_mean(%kn_sq) {axes=[-1]}
%kn_ve = add(%kn_ms, %eps)
%kn_r = rsqrt(%kn_ve)
%kn_n = mul(%kn_x32, %kn_r)
%kn_nc = cast(%kn_n) {to=bf16}
%kn = mul(%wb, %kn_nc)
output %qn
output %kn
