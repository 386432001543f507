# Groups of 128 against everything else that a weight may have: groups of its own, a scale a row, one scale.
graph "groups"
input %a: f8e4m3fn[batch, 256]
input %b: f8e4m3fn[48, 256]
input %sa: f32[batch, 2]
input %sg: f32[48, 2]
input %sr: f32[48, 1]
input %so: f32[]
%y = scaled_matmul(%a, %b, %sa, %sg) {a={block=[1, 128]}, b={block=[1, 128]}, to=bf16}
%z = scaled_matmul(%a, %b, %sa, %sr) {a={block=[1, 128]}, b=row, to=bf16}
%u = scaled_matmul(%a, %b, %sa, %so) {a={block=[1, 128]}, b=tensor, to=bf16}
output %y as "y"
output %z as "z"
output %u as "u"
