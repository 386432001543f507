# A given scale and zero point behind a cast, of a graph input.
graph "input_asymmetric"
opset "" 20
input %y: f16[batch, seq, 64]
input %s: f32[]
input %z: u8[]
%y32 = cast(%y) {to=f32}
%q = quantize_linear(%y32, %s, %z) {axis=1, block_size=0, to=u8, saturate=true}
output %q
