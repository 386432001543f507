# A norm alone hands out its value in 16 bits.
graph "no_quantiser"
opset "" 20
input %x: bf16[batch, seq, 256]
const %w: bf16[256] = fill(1.25)
const %eps: f32[] = 1e-6
const %two: f32[] = 2.0
%x32 = cast(%x) {to=f32}
%sq = pow(%x32, %two)
%ms = reduce_mean(%sq) {axes=[-1]}
%ve = add(%ms, %eps)
%rt = sqrt(%ve)
%r = reciprocal(%rt)
%n = mul(%x32, %r)
%nc = cast(%n) {to=bf16}
%y = mul(%w, %nc)
output %y
