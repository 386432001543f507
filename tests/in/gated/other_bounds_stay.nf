# A gate that is bounded on both sides, and a factor that is bounded on one and has two added: those stay ops before the gate.
graph "other_bounds_stay"
opset "" 24
input %gate: bf16[batch, seq, 64]
input %up: bf16[batch, seq, 64]
const %limit: bf16[] = 7.0
const %minus: bf16[] = -7.0
const %two: bf16[] = 2.0
const %floor: f32[] = 1e-10
const %top: f32[] = 448.0
const %low: f32[] = -448.0
%g = clip(%gate, %minus, %limit)
%u = clip(%up, _, %limit)
%silu = silu(%g)
%more = add(%u, %two)
%y = mul(%silu, %more)
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
