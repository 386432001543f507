# A cast of the gate that somebody else reads stays, and the op reads the gate.
graph "widened_gate_read_by_others"
opset "" 24
input %gate: bf16[batch, seq, 64]
input %up: bf16[batch, seq, 64]
const %floor: f32[] = 1e-10
const %top: f32[] = 448.0
const %low: f32[] = -448.0
%wide = cast(%gate) {to=f32}
%others = exp(%wide)
%silu = silu(%wide)
%factor = cast(%up) {to=f32}
%y = mul(%silu, %factor)
%a = abs(%y)
%m = reduce_max(%a) {axes=[-1]}
%m1 = max(%m, %floor)
%s = div(%m1, %top)
%d = div(%y, %s)
%c = clip(%d, %low, %top)
%q = cast(%c) {to=f8e4m3fn}
output %q
output %s
output %others
