graph "quantiser_hides_what_is_read"
opset "" 20
input %y: bf16[batch, seq, 64]
const %inv: f32[] = 103.1367
const %hi: f32[] = 448.0
const %lo: f32[] = -448.0
%y32: f32[batch, seq, 64] = cast(%y) {to=f32, saturate=true}
%m: f32[batch, seq, 64] = mul(%y32, %inv)
%c: f32[batch, seq, 64] = clip(%m, %lo, %hi)
%q: f8e4m3fn[batch, seq, 64] = cast(%c) {to=f8e4m3fn, saturate=true}
output %q
output %m
