# The view before the quantiser is the residual of a norm, which reads it when its add is gone.
graph "view_read_by_a_norm"
opset "" 20
input %x: bf16[batch, seq, 32]
input %y: bf16[batch, seq, 1, 32]
const %eps: f32[] = 1e-6
const %step: f32[] = 0.25
const %back: i64[4] = [0, 0, 1, 32]
%v = reshape(%x, %back)
%v32 = cast(%v) {to=f32}
%d = div(%v32, %step)
%q = cast(%d) {to=f8e4m3fn}
%h = add(%y, %v)
%h32 = cast(%h) {to=f32}
%hsq = mul(%h32, %h32)
%hms = reduce_mean(%hsq) {axes=[-1]}
%hve = add(%hms, %eps)
%hr = rsqrt(%hve)
%hn = mul(%h32, %hr)
output %q
output %hn
