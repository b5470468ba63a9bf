-- needs: epoch, outbox
--
-- Gives a webhook up: the outbox, then its entry and its id, why, when. Returns 0 if it does not
-- wait.
return bury_webhook(open_outbox(1), ARGV[5], ARGV[6], ARGV[7], ARGV[8]) and 1 or 0
