# Quantisers that are one op of the source already: a fused op in its place would save nothing.
graph "quantisers_of_one_op"
opset "" 20
input %x: f32[batch, seq, 64]
input %y: f32[batch, seq, 64]
input %w: f32[batch, seq, 64]
const %s: f32[] = 0.05
const %z: i8[] = 3
%qx = quantize_linear(%x, %s, %z) {axis=1, block_size=0, to=i8, saturate=true}
%qy, %sy, %zy = dynamic_quantize_linear(%y)
%qw = quantize_linear(%w, %s) {axis=1, block_size=0, to=f8e4m3fn, saturate=true, dialect=tensor_rt}
output %qx
output %qy
output %sy
output %zy
output %qw
