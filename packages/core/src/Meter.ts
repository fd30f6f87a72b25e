/**
 * How much may be sent and when, as pure functions over a few numbers.
 *
 * A meter is a bucket that is filled again evenly: `window` milliseconds from empty to full, `interval` milliseconds for each unit. It is kept
 * as one moment, the one at which it will be full. Taking moves that moment later, giving back moves it earlier, and time does the rest by
 * itself. A bucket may be overdrawn: whoever takes the next unit waits for it.
 *
 * All times are milliseconds of one clock.
 *
 * @since 0.1.0
 */

/**
 * A meter. One without an interval only says when it opens again.
 *
 * @category models
 * @since 0.1.0
 */
export interface Meter {
  readonly fullAt: number
  readonly interval: number
  readonly window: number
}

/**
 * Returns a full meter that lets `perMinute` units pass in each minute, and as many at once.
 *
 * @category constructors
 * @since 0.1.0
 */
export const perMinute = (perMinute: number): Meter => ({
  fullAt: -Infinity,
  interval: 60_000 / perMinute,
  window: 60_000
})

/**
 * Returns the milliseconds until this much may be taken. More than the meter ever holds may be taken when it is full.
 *
 * @category accessors
 * @since 0.1.0
 */
export const waitFor = (self: Meter, amount: number, now: number): number =>
  Math.max(0, Math.max(self.fullAt, now) + Math.min(amount * self.interval, self.window) - self.window - now)

/**
 * Takes an amount, or gives it back when it is negative.
 *
 * @category combinators
 * @since 0.1.0
 */
export const take = (self: Meter, amount: number, now: number): Meter => ({
  fullAt: Math.max(self.fullAt, now) + amount * self.interval,
  interval: self.interval,
  window: self.window
})

/**
 * Returns what is left, which is negative for a meter that is overdrawn, and 0 for one without an interval that is not open.
 *
 * @category accessors
 * @since 0.1.0
 */
export const left = (self: Meter, now: number): number => {
  const missing = Math.max(self.fullAt, now) - now
  if (self.interval === 0) return missing > 0 ? 0 : Infinity
  return (self.window - missing) / self.interval
}

/**
 * What somebody else reports about a limit: its size, what is left of it, and the milliseconds until it is full again.
 *
 * @category models
 * @since 0.1.0
 */
export interface Report {
  readonly limit: number | undefined
  readonly remaining: number | undefined
  readonly resetMillis: number | undefined
}

/**
 * Learns from a report; `undefined` when it says nothing.
 *
 * **Details**
 *
 * A report with all three numbers says how quickly the limit is filled. One without its size that has nothing left closes the meter until its
 * reset, at most `longest`. What was taken here since and is not in the report yet is kept: the later of the two moments counts.
 *
 * @category combinators
 * @since 0.1.0
 */
export const learn = (self: Meter | undefined, report: Report, longest: number, now: number): Meter | undefined => {
  const { limit, remaining, resetMillis } = report
  if (remaining === undefined || resetMillis === undefined || !(resetMillis > 0)) return undefined
  if (limit === undefined && remaining > 0) return undefined
  if (limit !== undefined && !(remaining < limit)) return undefined
  const interval = limit === undefined ? 0 : resetMillis / (limit - Math.max(0, remaining))
  const until = now + (limit === undefined ? Math.min(resetMillis, longest) : resetMillis)
  return { fullAt: Math.max(self?.fullAt ?? until, until), interval, window: (limit ?? 0) * interval }
}
