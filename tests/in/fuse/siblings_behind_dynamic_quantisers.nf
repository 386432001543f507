# Two Linears that each quantise what one norm gives by scales that they compute, one of half the range, and a norm behind each: no value but
# the norm's result is common to them.
graph "siblings_behind_dynamic_quantisers"
opset "" 20
input %h: bf16[batch, seq, 64]
input %wq: bf16[64, 48]
input %wkv: bf16[64, 32]
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
%x1_b = cast(%q1) {to=f32}
%x1_m = mul(%x1_b, %q1_s)
%x1 = cast(%x1_m) {to=bf16}
%x2_b = cast(%q2) {to=f32}
%x2_m = mul(%x2_b, %q2_s)
%x2 = cast(%x2_m) {to=bf16}
%qa = matmul(%x1, %wq)
%kva = matmul(%x2, %wkv)
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
