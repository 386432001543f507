# A quantiser's codes go to two products, which read its scales by columns; those of another are read by others as well; those of a third go to a product
# in other sizes.
scheme !s = {element=f8e4m3fn, granularity={group=128}, compute=f32, origin=amax, factor=[{div=448.0}, {max=4.359654e-6}], apply=divide, post=[{max=-448.0}, {min=448.0}], encode=saturate, scale={steps=[{div=448.0}, {max=4.359654e-6}], dtype=f32}}
graph "quantised_for_two"
input %x: f32[batch, 256]
input %b: f8e4m3fn[128, 256]
input %c: f8e4m3fn[64, 256]
input %sb: f32[1, 2]
input %sc: f32[]
%q: f8e4m3fn[batch, 256] scheme !s, %s: f32[batch, 2] scheme !s = quantize(%x) !s
%y = scaled_matmul(%q, %b, %s, %sb) {a={block=[1, 128]}, b={block=[128, 128]}, to=bf16}
%z = scaled_matmul(%q, %c, %s, %sc) {a={block=[1, 128]}, b=tensor, to=bf16}
%n = neg(%x)
%p: f8e4m3fn[batch, 256] scheme !s, %t: f32[batch, 2] scheme !s = quantize(%n) !s
%u = scaled_matmul(%p, %b, %t, %sb) {a={block=[1, 128]}, b={block=[128, 128]}, to=bf16}
%tt = add(%t, %t)
%a = abs(%x)
const %many: i64[3] = [-1, 1, 256]
const %groups: i64[3] = [-1, 1, 2]
%m: f8e4m3fn[batch, 256] scheme !s, %o: f32[batch, 2] scheme !s = quantize(%a) !s
%m3 = reshape(%m, %many)
%o3 = reshape(%o, %groups)
%v = scaled_matmul(%m3, %b, %o3, %sb) {a={block=[1, 128]}, b={block=[128, 128]}, to=bf16}
output %v as "v"
output %y as "y"
output %z as "z"
output %u as "u"
output %tt as "t"
