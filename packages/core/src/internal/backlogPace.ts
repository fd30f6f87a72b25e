import * as Duration from "effect/Duration"

/** How the chain is, as far as one request tells. */
export type Health =
  | { readonly _tag: "Well" }
  | { readonly _tag: "Ill"; readonly retryAfter: Duration.Duration | undefined }
  | { readonly _tag: "Unknown" }

export const well: Health = { _tag: "Well" }
export const unknown: Health = { _tag: "Unknown" }
export const ill = (retryAfter: Duration.Duration | undefined): Health => ({ _tag: "Ill", retryAfter })

/** How many may be asked at the same time, how often in a row it went wrong, and when the next one may start. */
export interface Pace {
  readonly allowed: number
  readonly failures: number
  readonly notBefore: number
}

/** One more at a time after each answer, back to one after a failure, with a pause that grows and that no two processes share. */
export const paced = (pace: Pace, health: Health, concurrency: number, now: number, random: number): Pace => {
  switch (health._tag) {
    case "Unknown":
      return pace
    case "Well":
      return { ...pace, allowed: Math.min(concurrency, pace.allowed + 1), failures: 0 }
    case "Ill": {
      const own = 1000 * 2 ** Math.min(pace.failures, 10) * (0.5 + random / 2)
      const asked = health.retryAfter === undefined ? 0 : Duration.toMillis(health.retryAfter)
      const pause = Math.min(longestPause, Math.max(own, asked))
      return { allowed: 1, failures: pace.failures + 1, notBefore: Math.max(pace.notBefore, now + pause) }
    }
  }
}

const longestPause = 60_000
