# Two norms in a chain, a view and a cast that changes nothing between them: all that reads the view goes with the first norm,
# and the second takes it as its rows.
graph "chain_by_view_and_cast"
opset "" 20
input %x: f32[batch, seq, 8]
const %eps: f32[] = 1e-6
const %wa: f32[8] = fill(0.5)
const %wb: f32[8] = fill(0.25)
const %step: f32[] = 0.03125
const %low: f32[] = -448.0
const %high: f32[] = 448.0
const %heads: i64[4] = [0, 0, 1, 8]
%a_sq = mul(%x, %x)
%a_ms = reduce_mean(%a_sq) {axes=[-1]}
%a_ve = add(%a_ms, %eps)
%a_r = rsqrt(%a_ve)
%a_n = mul(%x, %a_r)
%a = mul(%a_n, %wa)
%v = reshape(%a, %heads)
%q_d = div(%a, %step)
%q_c = clip(%q_d, %low, %high)
%q = cast(%q_c) {to=f8e4m3fn}
%h = cast(%v) {to=f32}
%b_sq = mul(%h, %h)
%b_ms = reduce_mean(%b_sq) {axes=[-1]}
%b_ve = add(%b_ms, %eps)
%b_r = rsqrt(%b_ve)
%b_n = mul(%h, %b_r)
%b = mul(%b_n, %wb)
output %q
output %b
