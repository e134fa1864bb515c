-- Lets another handle of the same customer lead to their conversation; 0 while it has own work.
return link(ARGV[3], follow(ARGV[4])) and 1 or 0
