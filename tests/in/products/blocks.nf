# Groups of 128 against blocks of 128 by 128, the last block of rows cut off; 3 groups, which go in fours; codes that are an input,
# and codes that a product's reader reads too.
graph "blocks"
input %a: f8e4m3fn[batch, 384]
input %b: f8e4m3fn[144, 384]
input %sa: f32[batch, 3]
input %sb: f32[2, 3]
input %x: f32[batch, 384]
%y = scaled_matmul(%a, %b, %sa, %sb) {a={block=[1, 128]}, b={block=[128, 128]}, to=bf16}
%c = cast(%x) {to=f8e4m3fn, saturate=true}
%z = scaled_matmul(%c, %b, %sa, %sb) {a={block=[1, 128]}, b={block=[128, 128]}, to=f32}
%zz = add(%z, %z)
output %y as "y"
output %zz as "z"
output %c as "c"
