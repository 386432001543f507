# silu as one op, of halves of one row.
graph "halves_of_a_row"
opset "" 24
input %gate_up: bf16[batch, seq, 128]
const %sizes: i64[2] = [64, 64]
const %floor: f32[] = 1e-10
const %top: f32[] = 448.0
const %low: f32[] = -448.0
%gate, %up = split(%gate_up, %sizes) {axis=-1}
%g = silu(%gate)
%y = mul(%g, %up)
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
