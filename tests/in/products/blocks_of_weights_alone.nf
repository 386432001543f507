# The weight has blocks, tokens have a scale a row or one for all.
graph "blocks_of_weights_alone"
input %a: f8e4m3fn[batch, 256]
input %b: f8e4m3fn[128, 256]
input %sr: f32[batch, 1]
input %so: f32[1]
input %sb: f32[1, 2]
%y = scaled_matmul(%a, %b, %sr, %sb) {a=row, b={block=[128, 128]}, to=bf16}
%z = scaled_matmul(%a, %b, %so, %sb) {a=tensor, b={block=[128, 128]}, to=bf16}
output %y as "y"
output %z as "z"
