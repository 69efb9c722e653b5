// The state of a cell in a URL's fragment: nothing is sent to a server, and opening a link runs nothing.
import type { Values } from "./controls";

export interface State { values: Values; source?: string }

const KEY = "live=";
const MOST = 200_000; // characters of source that a link may bring

async function through(bytes: Uint8Array, transform: GenericTransformStream): Promise<Uint8Array> {
  return new Uint8Array(await new Response(new Blob([bytes as BlobPart]).stream().pipeThrough(transform)).arrayBuffer());
}

export async function toFragment(state: State): Promise<string> {
  const packed = await through(new TextEncoder().encode(JSON.stringify(state)), new CompressionStream("deflate-raw"));
  return KEY + btoa(String.fromCharCode(...packed)).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
}

/** The state that a fragment holds; null if it holds none; throws if it is damaged. */
export async function fromFragment(hash: string): Promise<State | null> {
  if (!hash.startsWith(`#${KEY}`)) return null;
  const packed = atob(hash.slice(KEY.length + 1).replace(/-/g, "+").replace(/_/g, "/"));
  const bytes = await through(Uint8Array.from(packed, (c) => c.charCodeAt(0)), new DecompressionStream("deflate-raw"));
  const state = JSON.parse(new TextDecoder().decode(bytes)) as State;
  if (typeof state.values !== "object" || state.values === null) throw new Error("no values");
  if (state.source !== undefined && (typeof state.source !== "string" || state.source.length > MOST)) throw new Error("no source");
  return state;
}
