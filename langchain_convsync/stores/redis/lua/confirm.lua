-- Notes that a part of the head operation is confirmed; the last part removes the operation.
return confirm(unpack(ARGV, 3))
