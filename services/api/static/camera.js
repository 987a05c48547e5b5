/** Taking a picture with the camera of a computer. Phones and tablets have a program of their own for that. */

import { find } from "./dom.js";

const QUALITY = 0.92;
// As large as the camera can, up to this; sharper pictures find nothing more.
const WANTED = { video: { facingMode: "environment", width: { ideal: 1920 }, height: { ideal: 1080 } } };
const NONE = "This computer has no camera that a page can use.";
const REASONS = {
  NotAllowedError: "The camera was refused. Allow it in the browser's settings for this page, then try again.",
  NotFoundError: NONE,
  OverconstrainedError: NONE,
  NotReadableError: "The camera does not answer. Another program may be using it.",
};

const dialog = find("camera");
const view = find("camera-view");

/** Whether the browser lets pages use cameras at all: none does over plain http to another machine. */
export const hasCameras = () => Boolean(navigator.mediaDevices?.getUserMedia);

/**
 * Let the visitor take a picture. Resolves to a file, null where none was taken.
 *
 * Rejects with an Error that says so where the camera is refused or absent.
 */
export async function takePicture() {
  const stream = await opened();
  try {
    view.srcObject = stream;
    dialog.returnValue = "";
    dialog.showModal();
    view.play().catch(() => {}); // ended by closing
    await new Promise((resolve) => {
      dialog.addEventListener("close", resolve, { once: true });
    });
    return dialog.returnValue === "taken" ? await pictureOf(view) : null;
  } finally {
    // Its light goes out.
    for (const track of stream.getTracks()) track.stop();
    view.srcObject = null;
  }
}

async function opened() {
  try {
    return await navigator.mediaDevices.getUserMedia(WANTED);
  } catch (problem) {
    throw new Error(REASONS[problem.name] ?? `The camera cannot be used: ${problem.message}`);
  }
}

async function pictureOf(video) {
  if (!video.videoWidth) throw new Error("The camera gives no picture.");
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
  canvas.getContext("2d").drawImage(video, 0, 0);
  const bytes = await new Promise((resolve) => {
    canvas.toBlob(resolve, "image/jpeg", QUALITY);
  });
  return new File([bytes], "Photo.jpg", { type: bytes.type });
}
