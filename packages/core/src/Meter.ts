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
 * A meter.
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
 * Returns what is left, which is negative for a meter that is overdrawn.
 *
 * @category accessors
 * @since 0.1.0
 */
export const left = (self: Meter, now: number): number =>
  (self.window - (Math.max(self.fullAt, now) - now)) / self.interval
