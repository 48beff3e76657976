-- The trace that a command belongs to (W3C traceparent), so that what is published of it goes on with it. Null where
-- its sender traces nothing, or the commands role does not.
ALTER TABLE outcomes ADD COLUMN traceparent text;
