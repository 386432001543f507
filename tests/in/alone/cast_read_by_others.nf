# The cast before the quantiser and the value itself are read by others: both stay, and the op reads the value.
graph "cast_read_by_others"
opset "" 20
input %gate: bf16[batch, seq, 64]
input %up: bf16[batch, seq, 64]
const %inv: f32[] = 103.1367
const %hi: f32[] = 448.0
const %lo: f32[] = -448.0
%g = sigmoid(%gate)
%silu = mul(%gate, %g)
%y = mul(%silu, %up)
%y32 = cast(%y) {to=f32}
%m = mul(%y32, %inv)
%c = clip(%m, %lo, %hi)
%q = cast(%c) {to=f8e4m3fn}
%others = exp(%y32)
output %q
output %others
output %y
