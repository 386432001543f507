# The exponent is a vector as long as the row, and the row that is scaled is a copy.
graph "rms_exponents"
opset "" 20
input %x: f32[batch, seq, 64]
const %w: f32[64] = fill(1.25)
const %eps: f32[1] = [1e-6]
const %two: f32[64] = fill(2.0)
const %ex: f32[1] = [-0.5]
%sq = pow(%x, %two)
%ms = reduce_mean(%sq) {axes=[-1]}
%ve = add(%ms, %eps)
%r = pow(%ve, %ex)
%xc = identity(%x)
%n = mul(%xc, %r)
%y = mul(%n, %w)
output %y
