# silu as one op, of a gate that is bounded before it is widened.
graph "silu_of_a_bounded_gate"
opset "" 24
input %gate: f16[batch, seq, 64]
input %up: f16[batch, seq, 64]
const %limit: f16[] = 10.0
const %floor: f32[] = 1e-10
const %top: f32[] = 448.0
const %low: f32[] = -448.0
%g = clip(%gate, _, %limit)
%wide = cast(%g) {to=f32}
%silu = silu(%wide)
%narrow = cast(%silu) {to=f16}
%y = mul(%narrow, %up)
%v = cast(%y) {to=f32}
%a = abs(%v)
%m = reduce_max(%a) {axes=[-1]}
%m1 = max(%m, %floor)
%s = div(%m1, %top)
%d = div(%v, %s)
%c = clip(%d, %low, %top)
%q = cast(%c) {to=f8e4m3fn}
output %q
output %s
