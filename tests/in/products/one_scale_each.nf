# Codes with one scale for all on either side.
graph "one_scale_each"
input %a: f8e4m3fn[batch, 64]
input %b: f8e4m3fn[48, 64]
input %sa: f32[]
input %sb: f32[1]
%y = scaled_matmul(%a, %b, %sa, %sb) {a=tensor, b=tensor, to=bf16}
%z = scaled_matmul(%a, %b, %sb, %sa) {a=tensor, b=tensor, to=f32}
output %y as "y"
output %z as "z"
