/** Timers in the order in which they fire: a binary heap. Of two at the same moment the one with the lower draw comes first. */
export interface Timer {
  readonly at: number
  readonly action: () => void
  readonly draw: number
  cancelled: boolean
}

export interface Timers {
  readonly add: (at: number, action: () => void) => Timer
  readonly cancel: (timer: Timer) => void
  readonly next: () => Timer | undefined
}

export const make = (draw: () => number): Timers => {
  let heap: Array<Timer> = []
  let cancelled = 0

  const push = (timer: Timer): void => {
    let index = heap.push(timer) - 1
    while (index > 0) {
      const parent = (index - 1) >> 1
      const above = heap[parent]
      if (above === undefined || !sooner(timer, above)) break
      heap[index] = above
      index = parent
    }
    heap[index] = timer
  }

  const pop = (): Timer | undefined => {
    const top = heap[0]
    const last = heap.pop()
    if (top === undefined || last === undefined || heap.length === 0) return top
    let index = 0
    for (;;) {
      const left = 2 * index + 1
      const one = heap[left]
      if (one === undefined) break
      const other = heap[left + 1]
      const child = other !== undefined && sooner(other, one) ? left + 1 : left
      const below = heap[child]
      if (below === undefined || !sooner(below, last)) break
      heap[index] = below
      index = child
    }
    heap[index] = last
    return top
  }

  return {
    add: (at, action) => {
      const timer = { at, action, draw: draw(), cancelled: false }
      push(timer)
      return timer
    },
    // Most timers are timeouts that never come to pass, so a cancelled one stays until there are too many of them.
    cancel: (timer) => {
      if (timer.cancelled) return
      timer.cancelled = true
      if (++cancelled < 64 || cancelled * 2 < heap.length) return
      const kept = heap.filter((timer) => !timer.cancelled)
      heap = []
      cancelled = 0
      for (const timer of kept) push(timer)
    },
    next: () => {
      for (let timer = pop(); timer !== undefined; timer = pop()) {
        if (!timer.cancelled) {
          // Whoever cancels it from now on cancels nothing.
          timer.cancelled = true
          return timer
        }
        cancelled--
      }
      return undefined
    }
  }
}

const sooner = (left: Timer, right: Timer): boolean =>
  left.at < right.at || (left.at === right.at && left.draw < right.draw)
