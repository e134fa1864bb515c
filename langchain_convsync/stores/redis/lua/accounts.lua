-- Every account that a source has named, and what is known of it. KEYS[1] is the shard that knows them all.
return read('HGETALL', prefix .. 'accounts_known')
