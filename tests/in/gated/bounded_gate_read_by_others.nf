# Somebody else reads the bounded gate: it stays an op before.
graph "bounded_gate_read_by_others"
opset "" 24
input %gate: bf16[batch, seq, 64]
input %up: bf16[batch, seq, 64]
const %limit: bf16[] = 7.0
const %floor: f32[] = 1e-10
const %top: f32[] = 448.0
const %low: f32[] = -448.0
%g = clip(%gate, _, %limit)
%silu = silu(%g)
%y = mul(%silu, %up)
output %g
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
