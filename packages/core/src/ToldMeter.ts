/**
 * What somebody else reports about a limit, as pure functions over a few numbers.
 *
 * The last report says what was left, and when all of it is back. What is known is kept in units: that rest, and what was taken since. A newer
 * report replaces the older one, and all estimates that it contains with it.
 *
 * Nobody says how a limit is filled. It may be filled evenly until its reset, or all at once at the reset. A call waits for whichever comes first,
 * and never while the reported rest covers it. After the reset everything that was taken before it is forgotten.
 *
 * All times are milliseconds of one clock.
 *
 * @since 0.1.0
 */

/**
 * A learnt meter.
 *
 * **Details**
 *
 * - `limit`, `remaining`, `at`, `reset`: what the last report said, when, and in how long it is full. A limit of 0 is one whose size nobody told.
 * - `longest`: the longest reset that was told. It stands for the next one, until that is told.
 * - `taken`: all that was ever taken. How far it had come after a call was taken is the mark of that call.
 * - `mark`: the mark of the call that brought the report.
 * - `since`: where that stood which the rest knows of. What was taken later is not in it yet, except for `credit`, which was given back.
 * - `next`: what of it waits for the reset.
 *
 * @category models
 * @since 0.1.0
 */
export interface ToldMeter {
  readonly limit: number
  readonly remaining: number
  readonly at: number
  readonly reset: number
  readonly longest: number
  readonly taken: number
  readonly mark: number
  readonly since: number
  readonly credit: number
  readonly next: number
}

/**
 * What is reported about a limit: its size, what is left of it, and the milliseconds until it is full again.
 *
 * **Details**
 *
 * `ageMillis` says how long ago the call was sent that brought the report, and `mark` is the mark of that call. A call that was not counted has none.
 *
 * @category models
 * @since 0.1.0
 */
export interface Report {
  readonly limit: number | undefined
  readonly remaining: number | undefined
  readonly resetMillis: number | undefined
  readonly ageMillis?: number | undefined
  readonly mark?: number | undefined
}

/**
 * Learns from a report; returns what was known when it says nothing or is older than what is known.
 *
 * **Details**
 *
 * One without a size that has nothing left closes the meter until its reset, at most `longestPause`. Which of two reports is newer is decided
 * by when their calls were sent: a slow answer tells of a time before that of a quick one.
 *
 * @category combinators
 * @since 0.1.0
 */
export const learn = (
  self: ToldMeter | undefined,
  report: Report,
  longestPause: number,
  now: number
): ToldMeter | undefined => {
  const { ageMillis = 0, remaining } = report
  const at = now - ageMillis
  const isOlder = self !== undefined && (report.mark === undefined ? at < self.at : report.mark < self.mark)
  if (remaining === undefined || isOlder) return self
  const known = self === undefined ? undefined : opened(self, now)
  const limit = report.limit ?? known?.limit ?? 0
  const isFull = remaining >= limit && limit > 0
  const told = report.resetMillis ?? (known?.limit === limit && limit > 0 ? known.longest : isFull ? 0 : undefined)
  if (told === undefined) return known
  // Of a call that was not counted nobody knows which others came before it.
  const mark = report.mark ?? known?.mark ?? 0
  const from = report.mark ?? known?.since ?? 0
  if (limit === 0) {
    if (remaining > 0) return known === undefined ? undefined : { ...known, mark, reset: 0 }
    const reset = Math.min(told, longestPause)
    return { ...(known ?? nothing), limit, remaining: 0, at, reset, longest: reset, mark }
  }
  // A slow answer from before a reset that is known already.
  if (known !== undefined && !isFull && at + told < known.at) return known
  const longest = known?.limit === limit ? Math.max(known.longest, told) : told
  const { credit, next, since, taken } = known ?? nothing
  return {
    limit,
    remaining: Math.min(limit, Math.max(0, remaining)),
    at,
    reset: isFull ? longest : told,
    longest,
    taken: Math.max(taken, mark),
    mark,
    since: from,
    // Which calls it came from is not known, so it is spread evenly over what was taken.
    credit: from > since && taken > since ? (credit * Math.max(0, taken - from)) / (taken - since) : credit,
    next
  }
}

const nothing: ToldMeter = {
  limit: 0,
  remaining: 0,
  at: 0,
  reset: 0,
  longest: 0,
  taken: 0,
  mark: 0,
  since: 0,
  credit: 0,
  next: 0
}

// After the reset it is full but for those who waited for it. Of a full one the time runs from when something is taken.
const opened = (self: ToldMeter, now: number): ToldMeter => {
  if (self.limit === 0) return self
  const isIdle = self.remaining === self.limit && pending(self) <= 0
  if (now < self.at + self.reset && !isIdle) return self
  const since = self.taken - Math.min(self.next, Math.max(0, pending(self)))
  return { ...self, remaining: self.limit, at: now, reset: self.longest, since, credit: 0, next: 0 }
}

const pending = ({ credit, since, taken }: ToldMeter): number => taken - since - credit

// If it is filled evenly.
const intervalOf = ({ limit, remaining, reset }: ToldMeter): number =>
  reset / (remaining < limit ? limit - remaining : limit)

/**
 * Returns the milliseconds until this much may be taken. More than the limit may be taken when it is full.
 *
 * @category accessors
 * @since 0.1.0
 */
export const waitFor = (self: ToldMeter, amount: number, now: number): number => waitOf(opened(self, now), amount, now)

const waitOf = (self: ToldMeter, amount: number, now: number): number => {
  const untilReset = self.at + self.reset - now
  if (self.limit === 0) return Math.max(0, untilReset)
  const cost = Math.min(amount, self.limit)
  const missing = cost + pending(self) - self.remaining
  if (missing <= 0) return 0
  const evenly = missing * intervalOf(self) - (now - self.at)
  const atOnce = untilReset + (Math.max(0, self.next + cost - self.limit) * self.longest) / self.limit
  return Math.max(0, Math.min(evenly, atOnce))
}

/**
 * Takes an amount. What `taken` is then is the mark of the call.
 *
 * @category combinators
 * @since 0.1.0
 */
export const take = (self: ToldMeter, amount: number, now: number): ToldMeter => {
  const open = opened(self, now)
  const wait = waitOf(open, amount, now)
  const waits = wait > 0 && now + wait >= open.at + open.reset
  return { ...open, taken: open.taken + amount, next: waits ? open.next + amount : open.next }
}

/**
 * Gives back what the call with this mark took, or takes more for it when it is negative, unless a report or a reset has settled that.
 *
 * @category combinators
 * @since 0.1.0
 */
export const give = (self: ToldMeter, amount: number, mark: number | undefined, now: number): ToldMeter => {
  const open = opened(self, now)
  if (mark === undefined || mark <= open.since) return open
  return { ...open, credit: open.credit + amount, next: Math.max(0, open.next - Math.max(0, amount)) }
}

/**
 * Returns what is left, which is negative when more was promised to those who wait, and 0 for one without a size that is not open.
 *
 * @category accessors
 * @since 0.1.0
 */
export const left = (self: ToldMeter, now: number): number => {
  const open = opened(self, now)
  if (open.limit === 0) return now < open.at + open.reset ? 0 : Infinity
  const interval = intervalOf(open)
  return interval === 0 ? open.limit : Math.min(open.limit, open.remaining + (now - open.at) / interval - pending(open))
}
