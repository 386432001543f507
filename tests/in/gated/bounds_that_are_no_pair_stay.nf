# Bounds of the factor that are no pair of a number and its negative.
graph "bounds_that_are_no_pair_stay"
opset "" 24
input %gate: bf16[batch, seq, 64]
input %up: bf16[batch, seq, 64]
const %limit: bf16[] = 7.0
const %minus: bf16[] = -6.0
const %one: bf16[] = 1.0
const %floor: f32[] = 1e-10
const %top: f32[] = 448.0
const %low: f32[] = -448.0
%u = clip(%up, %minus, %limit)
%silu = silu(%gate)
%more = add(%u, %one)
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
