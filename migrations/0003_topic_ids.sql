-- Which topic a projection's position is one in. Null: not seen since this column is there; the next owner takes the topic
-- that it meets.
ALTER TABLE omnilink.projection_offsets ADD COLUMN topic_id text COLLATE "C";
